// Counts, for one chunk, the steps of each live worker, and bounds how far one may be ahead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

namespace leash {

// A worker's clock is the number of its steps. The live workers stand in buckets, one for each
// clock value that some worker has, in ascending order:
//
//   buckets_     {clock 4: 1 worker} - {clock 5: 3 workers} - {clock 7: 1 worker}
//   places_      worker -> its bucket, and its neighbours there, in the order in which they came
//
// The first bucket holds the minimum, and a tick moves a worker by one bucket at most. So both cost
// one hash look-up and a constant number of links, however many workers there are. Empty buckets
// are kept for reuse, so that ticks allocate nothing once there are enough.
//
// The minimum never decreases, whoever joins or leaves.
// Not synchronised: the owner locks.
class StepClock {
 public:
  // bound: how far a worker's clock may be ahead of the minimum when it begins a step; without one,
  // any number of steps.
  explicit StepClock(std::optional<std::uint64_t> bound);

  // Places hold pointers to each other and into the list; those of a copy would lead to the
  // original.
  StepClock(const StepClock&) = delete;
  StepClock& operator=(const StepClock&) = delete;
  StepClock(StepClock&&) = default;
  StepClock& operator=(StepClock&&) = default;

  // Throws std::invalid_argument if worker is 0 or live already, or if clock < minimum().
  // Takes time in proportion to the number of buckets below `clock`.
  void join(std::uint32_t worker, std::uint64_t clock);
  void check_join(std::uint32_t worker, std::uint64_t clock) const;  // throws what join() would

  // These three throw NotLive.
  void leave(std::uint32_t worker);
  std::uint64_t tick(std::uint32_t worker);  // returns the new clock
  std::uint64_t clock(std::uint32_t worker) const;

  // The smallest clock of any live worker. While no worker is live, the last minimum there was; 0
  // before the first one joined.
  std::uint64_t minimum() const;

  // lag() is clock(worker) - minimum(). admits() says whether that is within the bound, so that the
  // worker may begin its next step. Both throw NotLive.
  std::uint64_t lag(std::uint32_t worker) const;
  bool admits(std::uint32_t worker) const;

  // Of the workers with the smallest clock, the one that has had it for longest. 0 if no worker is
  // live.
  std::uint32_t slowest() const;
  // Whether no worker has a larger clock. Throws NotLive.
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
  void exit(Place& place);  // moves the bucket to spare_ if it is empty then
  Buckets::iterator insert(Buckets::iterator before, std::uint64_t clock);

  std::optional<std::uint64_t> bound_;
  std::uint64_t last_minimum_ = 0;  // at the last leave()
  Buckets buckets_;
  Buckets spare_;  // empty ones, for reuse
  std::unordered_map<std::uint32_t, Place> places_;
};

}  // namespace leash
