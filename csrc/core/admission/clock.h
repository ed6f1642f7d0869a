// For a chunk: how many steps of each worker have been applied to it, and who may go on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

namespace leash {

// The live workers stand in buckets, one for each clock value that some worker has, in ascending
// order:
//
//   buckets_     {clock 4: 1 worker} - {clock 5: 3 workers} - {clock 7: 1 worker}
//   places_      worker -> its bucket, and its neighbours there, in the order in which they came
//
// The first bucket is the minimum, and a tick moves a worker to the next bucket at most. So both
// cost one hash look-up and a constant number of links, however many workers there are. Buckets
// are kept for reuse: a steady state allocates nothing.
//
// The minimum never decreases, whoever joins or leaves.
// Not synchronised: the owner locks.
class StalenessClock {
 public:
  // How far a worker's clock may be ahead of the minimum when it begins a step: none for asp,
  // 0 for bsp, s for ssp.
  explicit StalenessClock(std::optional<std::uint64_t> bound);

  // The places point at each other, and into the list: a copy would point into the original.
  StalenessClock(const StalenessClock&) = delete;
  StalenessClock& operator=(const StalenessClock&) = delete;
  StalenessClock(StalenessClock&&) = default;
  StalenessClock& operator=(StalenessClock&&) = default;

  // Throws std::invalid_argument if worker is 0 or live already, or if clock < minimum().
  // Cost: one step for each different clock below `clock`.
  void join(std::uint32_t worker, std::uint64_t clock);
  void check_join(std::uint32_t worker, std::uint64_t clock) const;  // throws as join would

  // These three throw NotLive.
  void leave(std::uint32_t worker);
  std::uint64_t tick(std::uint32_t worker);  // returns the new clock
  std::uint64_t clock(std::uint32_t worker) const;

  // The smallest clock of any live worker. When nobody is live: the last minimum there was, 0 at
  // first.
  std::uint64_t minimum() const;

  // clock(worker) - minimum(), and whether that is within the bound: may the worker begin its
  // next step? Throw NotLive.
  std::uint64_t lag(std::uint32_t worker) const;
  bool admits(std::uint32_t worker) const;

  // Of the workers with the smallest clock, the one that has had it for longest. 0 if nobody is
  // live.
  std::uint32_t slowest() const;
  // Nobody has a larger clock. Throws NotLive.
  bool is_fastest(std::uint32_t worker) const;

  std::optional<std::uint64_t> bound() const { return bound_; }
  void set_bound(std::optional<std::uint64_t> bound) { bound_ = bound; }
  std::size_t size() const { return places_.size(); }
  bool contains(std::uint32_t worker) const { return places_.contains(worker); }
  std::vector<std::uint32_t> workers() const;  // in ascending order

 private:
  struct Place;
  struct Bucket {
    std::uint64_t clock;
    Place* first = nullptr;
    Place* last = nullptr;
  };
  using Buckets = std::list<Bucket>;
  struct Place {
    std::uint32_t worker;
    Buckets::iterator bucket = {};
    Place* previous = nullptr;
    Place* next = nullptr;
  };

  void advance(Place& place);
  void enter(Place& place, Buckets::iterator bucket);
  void exit(Place& place);  // an empty bucket goes
  Buckets::iterator insert(Buckets::iterator before, std::uint64_t clock);

  std::optional<std::uint64_t> bound_;
  std::uint64_t last_minimum_ = 0;  // of the time when somebody was live
  Buckets buckets_;
  Buckets spare_;
  std::unordered_map<std::uint32_t, Place> places_;
};

}  // namespace leash
