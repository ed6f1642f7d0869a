// A chunk without parameters, for simulations in virtual time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "core/admission/admission.h"

namespace leash {

struct SimulatedPush {
  std::uint64_t clock;                  // the worker's, this push included
  std::uint64_t staleness;              // updates of the chunk since the worker pulled
  bool dropped;                         // the push was too stale to be applied
  std::vector<std::uint32_t> released;  // the workers that go on now, with the newest parameters
};

// Decides with the Admission that a Shard's chunk has, and counts versions as a Shard does whose
// pushes are all finite, have samples, and are answered with parameters.
class SimulatedChunk {
 public:
  explicit SimulatedChunk(const Rule& rule) : admission_(rule) {}

  // They throw as StepClock's functions do. leave() and set_rule() return the workers that go
  // on because of the call.
  void join(std::uint32_t worker, std::uint64_t clock) { admission_.join(worker, clock, version_); }
  std::vector<std::uint32_t> leave(std::uint32_t worker);
  std::vector<std::uint32_t> set_rule(const Rule& rule);

  // The worker pushes its next step at the time now_s. Throws NotLive.
  SimulatedPush push(std::uint32_t worker, double now_s);

  bool is_waiting(std::uint32_t worker) const;  // throws NotLive
  const StepClock& clock() const { return admission_.clock(); }
  const Rule& rule() const { return admission_.rule(); }
  std::uint64_t version() const { return version_; }
  std::uint64_t dropped() const { return dropped_; }

 private:
  void release_workers(std::vector<std::uint32_t>& released);
  void count_means(bool round_closed);

  Admission admission_;
  std::uint64_t version_ = 0;
  std::uint64_t dropped_ = 0;
  // The pushes that wait for their mean: step and worker.
  std::set<std::pair<std::uint64_t, std::uint32_t>> gathered_;
};

}  // namespace leash
