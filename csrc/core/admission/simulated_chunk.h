// A chunk without numbers, for simulations in virtual time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "core/admission/admission.h"

namespace leash {

struct SimulatedPush {
  std::uint64_t clock;                  // the worker's, with this push
  std::uint64_t staleness;              // updates since it pulled
  bool dropped;                         // too stale: not applied
  std::vector<std::uint32_t> released;  // who goes on now, with the newest parameters
};

// The admission of a Shard's chunk, with the version counted as a Shard counts it if every push is
// finite, has samples, and is answered with parameters.
class SimulatedChunk {
 public:
  explicit SimulatedChunk(const Rule& rule) : admission_(rule) {}

  // As the clock's. leave() and set_rule() return those who go on because of it.
  void join(std::uint32_t worker, std::uint64_t clock) { admission_.join(worker, clock, version_); }
  std::vector<std::uint32_t> leave(std::uint32_t worker);
  std::vector<std::uint32_t> set_rule(const Rule& rule);

  // The worker pushes its next step at that time. Throws NotLive.
  SimulatedPush push(std::uint32_t worker, double now_s);

  bool is_waiting(std::uint32_t worker) const;  // throws NotLive
  const StalenessClock& clock() const { return admission_.clock(); }
  const Rule& rule() const { return admission_.rule(); }
  std::uint64_t version() const { return version_; }
  std::uint64_t dropped() const { return dropped_; }

 private:
  void settle(std::vector<std::uint32_t>& released);
  void count_means(bool round_closed);

  Admission admission_;
  std::uint64_t version_ = 0;
  std::uint64_t dropped_ = 0;
  std::set<std::pair<std::uint64_t, std::uint32_t>> gathered_;  // step and worker
};

}  // namespace leash
