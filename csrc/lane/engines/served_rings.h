// The rings of the workers that share memory with a shard: headers come and go there without
// ZeroMQ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lane/rings/bell.h"
#include "lane/rings/ring.h"

namespace leash::lane {

// One worker's, from the `attach` that offered it to the next one.
struct ServedRing {
  std::uint32_t worker;
  std::uint64_t number;      // of all that were opened
  std::string route;         // as an engine knows it; no peer of a socket has one like it
  std::string socket_route;  // of the connection that attached it
  std::string key;           // of the worker
  RingReader requests;
  RingWriter answers;
  Bell bell;  // of the worker
  int pipe;   // by which the worker wakes this side
  bool is_broken = false;
};

class ServedRings {
 public:
  ServedRings() = default;
  ~ServedRings();
  ServedRings(const ServedRings&) = delete;
  ServedRings& operator=(const ServedRings&) = delete;

  // Serves a worker's ring in place of the one that it had; returns its route. What was written to
  // it before is forgotten. rings: kRingsNbytes, which stay as long as the ring is open. shard:
  // below kRingShards. pipe: a descriptor, which is closed with the ring.
  std::string open(std::uint32_t worker, std::byte* rings, std::size_t shard, int pipe,
                   std::string_view socket_route, std::string_view key);
  // Closes a worker's ring, and tells it so.
  void close(std::uint32_t worker);
  bool is_empty() const { return rings_.empty(); }
  // The ring with this route; null if there is none any more. REQUIRES: is_route(route).
  ServedRing* find(std::string_view route);
  static bool is_route(std::string_view route);

  // All of them, in turn: each call begins with another one.
  template <typename Use>
  void each(Use&& use) {
    if (rings_.empty()) return;
    first_ = (first_ + 1) % rings_.size();
    for (std::size_t i = 0; i < rings_.size(); ++i) {
      if (!use(*rings_[(first_ + i) % rings_.size()])) return;
    }
  }

  // A descriptor that can be read when a worker has woken this side; -1 as long as there is no
  // ring.
  int fd() const { return poll_; }
  bool has_come() const;
  // Says that this side sleeps; look at has_come() then. Once it is awake again, wake_up().
  void fall_asleep();
  void wake_up();

 private:
  std::vector<std::unique_ptr<ServedRing>> rings_;  // by number
  std::size_t first_ = 0;
  std::uint64_t opened_ = 0;
  int poll_ = -1;
};

}  // namespace leash::lane
