#include "core/admission/clock.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>

#include "core/base/errors.h"
#include "tests/support/allocations.h"

using leash::NotLive;
using leash::StepClock;
using leash::tests::allocations_of;

namespace {

// The same in the plainest way: everything is searched for.
class NaiveClock {
 public:
  void join(std::uint32_t worker, std::uint64_t clock) { set(worker, clock); }
  void leave(std::uint32_t worker) {
    last_minimum_ = minimum();
    places_.erase(worker);
  }
  void tick(std::uint32_t worker) { set(worker, places_.at(worker).clock + 1); }

  std::uint64_t minimum() const {
    return places_.empty() ? last_minimum_ : places_.at(slowest()).clock;
  }
  std::uint64_t clock(std::uint32_t worker) const { return places_.at(worker).clock; }
  std::uint32_t slowest() const {
    const auto less = [](const auto& a, const auto& b) {
      return std::pair(a.second.clock, a.second.since) < std::pair(b.second.clock, b.second.since);
    };
    return places_.empty() ? 0 : std::ranges::min_element(places_, less)->first;
  }
  std::uint64_t largest() const {
    std::uint64_t most = 0;
    for (const auto& [worker, place] : places_) most = std::max(most, place.clock);
    return most;
  }
  bool contains(std::uint32_t worker) const { return places_.contains(worker); }
  std::vector<std::uint32_t> workers() const {
    std::vector<std::uint32_t> live;
    for (const auto& [worker, place] : places_) live.push_back(worker);
    return live;
  }

 private:
  struct Place {
    std::uint64_t clock;
    std::uint64_t since;
  };

  void set(std::uint32_t worker, std::uint64_t clock) { places_[worker] = {clock, ++moments_}; }

  std::map<std::uint32_t, Place> places_;
  std::uint64_t moments_ = 0;
  std::uint64_t last_minimum_ = 0;
};

void check_same(const StepClock& clock, const NaiveClock& naive) {
  REQUIRE(clock.workers() == naive.workers());
  REQUIRE(clock.minimum() == naive.minimum());
  REQUIRE(clock.slowest() == naive.slowest());
  for (const std::uint32_t worker : naive.workers()) {
    const std::uint64_t lag = naive.clock(worker) - naive.minimum();
    REQUIRE(clock.clock(worker) == naive.clock(worker));
    REQUIRE(clock.lag(worker) == lag);
    REQUIRE(clock.admits(worker) == (!clock.bound() || lag <= *clock.bound()));
    REQUIRE(clock.is_fastest(worker) == (naive.clock(worker) == naive.largest()));
  }
}

}  // namespace

TEST_CASE("any sequence of joins, ticks and departures agrees with a plain list of clocks") {
  std::mt19937 dice(1);
  for (int run = 0; run < 20; ++run) {
    StepClock clock(run % 4 == 0 ? std::nullopt : std::optional<std::uint64_t>(run % 4));
    NaiveClock naive;
    std::uint64_t minimum = 0;
    for (int call = 0; call < 400; ++call) {
      const std::uint32_t worker = 1 + dice() % 8;
      if (!naive.contains(worker)) {
        const std::uint64_t first = naive.minimum() + dice() % 4;
        clock.join(worker, first);
        naive.join(worker, first);
      } else if (dice() % 10 == 0) {
        clock.leave(worker);
        naive.leave(worker);
      } else {
        naive.tick(worker);
        CHECK(clock.tick(worker) == naive.clock(worker));
      }
      check_same(clock, naive);
      REQUIRE(clock.minimum() >= minimum);
      minimum = clock.minimum();
    }
  }
}

TEST_CASE("a worker is within the bound up to it, and no further") {
  for (const std::uint64_t bound : {0, 1, 3}) {
    StepClock clock(bound);
    clock.join(1, 0);
    clock.join(2, 0);
    for (std::uint64_t step = 1; step <= bound; ++step) {
      clock.tick(1);
      CHECK(clock.admits(1));
    }
    clock.tick(1);
    CHECK_FALSE(clock.admits(1));
    CHECK(clock.lag(1) == bound + 1);
    clock.tick(2);
    CHECK(clock.admits(1));
  }
}

TEST_CASE("without a bound everybody may go on") {
  StepClock clock(std::nullopt);
  clock.join(1, 0);
  clock.join(2, 0);
  for (int step = 0; step < 1000; ++step) clock.tick(1);
  CHECK(clock.admits(1));
}

TEST_CASE("nobody joins twice, as nobody, or behind the minimum") {
  StepClock clock(std::nullopt);
  clock.join(1, 5);
  CHECK_THROWS_AS(clock.join(1, 5), std::invalid_argument);
  CHECK_THROWS_AS(clock.join(0, 5), std::invalid_argument);
  CHECK_THROWS_WITH_AS(clock.join(2, 4),
                       "worker 2: expected a clock of at least 5, the smallest there is, got 4",
                       std::invalid_argument);
  clock.leave(1);
  CHECK_THROWS_AS(clock.join(2, 4), std::invalid_argument);  // the minimum stays
  clock.join(2, 5);
  CHECK(clock.workers() == std::vector<std::uint32_t>{2});
}

TEST_CASE("a worker that is not live is named") {
  StepClock clock(1);
  CHECK_THROWS_AS(clock.leave(3), NotLive);
  CHECK_THROWS_AS(clock.clock(3), NotLive);
  CHECK_THROWS_AS(clock.lag(3), NotLive);
  CHECK_THROWS_AS(clock.is_fastest(3), NotLive);
  CHECK_THROWS_WITH_AS(clock.tick(3), "worker 3 is not live", NotLive);
}

TEST_CASE("in a steady state a tick allocates nothing") {
  StepClock clock(std::nullopt);
  for (std::uint32_t worker = 1; worker <= 9; ++worker) clock.join(worker, 0);
  std::mt19937 dice(2);
  const auto tick_a_while = [&] {
    for (int round = 0; round < 50; ++round) {
      for (std::uint32_t worker = 1; worker <= 9; ++worker) {
        if (dice() % 2 == 0) clock.tick(worker);
      }
      for (std::uint32_t worker = 1; worker <= 9; ++worker) {
        while (clock.clock(worker) < clock.minimum() + 4) clock.tick(worker);
      }
    }
  };
  tick_a_while();
  CHECK(allocations_of(tick_a_while) == 0);
}
