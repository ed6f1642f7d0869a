// A chunk's decisions, mostly by way of the simulated chunk: it is the admission with a version.

#include "core/admission/admission.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <string>

#include "core/admission/simulated_chunk.h"
#include "tests/support/allocations.h"

using leash::Admission;
using leash::BoundUnit;
using leash::Gather;
using leash::Rule;
using leash::SimulatedChunk;
using leash::SimulatedPush;
using leash::tests::allocations_of;

namespace {

using Workers = std::vector<std::uint32_t>;

const Rule kBsp{.bound = 0, .gather = Gather::kStep};
const Rule kAsp{};

Rule ssp(std::uint64_t bound) { return {.bound = bound}; }
Rule versions(std::uint64_t bound) { return {.bound = bound, .unit = BoundUnit::kVersions}; }
Rule backup(std::uint64_t workers) { return {.gather = Gather::kRound, .backup_workers = workers}; }
Rule drop(std::uint64_t limit) { return {.staleness_limit = limit}; }

SimulatedChunk chunk_of(const Rule& rule, std::uint32_t workers) {
  SimulatedChunk chunk(rule);
  for (std::uint32_t worker = 1; worker <= workers; ++worker) chunk.join(worker, 0);
  return chunk;
}

// Who goes on because of a push; times do not matter here.
Workers pushed(SimulatedChunk& chunk, std::uint32_t worker) {
  return chunk.push(worker, 0.0).released;
}

const std::map<std::string, Rule> kRules{
    {"bsp", kBsp},
    {"asp", kAsp},
    {"ssp(0)", ssp(0)},
    {"ssp(2)", ssp(2)},
    {"dssp", {.bound = 1, .bound_max = 4}},
    {"versions(0)", versions(0)},
    {"versions(3)", versions(3)},
    {"backup(1)", backup(1)},
    {"backup(0)", backup(0)},
    {"drop(2)", drop(2)},
};

}  // namespace

TEST_CASE("a worker goes on until it is the bound ahead, then waits for the slowest") {
  for (const std::uint64_t bound : {0, 1, 3}) {
    SimulatedChunk chunk = chunk_of(ssp(bound), 2);
    for (std::uint64_t step = 1; step <= bound; ++step) CHECK(pushed(chunk, 1) == Workers{1});
    CHECK(pushed(chunk, 1).empty());
    CHECK(chunk.is_waiting(1));
    CHECK(pushed(chunk, 2) == Workers{1, 2});
    CHECK_FALSE(chunk.is_waiting(1));
  }
}

TEST_CASE("those who wait for the slowest go on in the order of their clocks") {
  SimulatedChunk chunk = chunk_of(ssp(1), 4);
  CHECK(pushed(chunk, 3) == Workers{3});
  CHECK(pushed(chunk, 3).empty());  // at clock 2
  CHECK(pushed(chunk, 2) == Workers{2});
  CHECK(pushed(chunk, 4) == Workers{4});
  CHECK(pushed(chunk, 4).empty());
  CHECK(pushed(chunk, 1) == Workers{3, 4, 1});
}

TEST_CASE("a bound in versions counts from the oldest parameters that somebody computes with") {
  SimulatedChunk chunk = chunk_of(versions(2), 2);
  CHECK(pushed(chunk, 1) == Workers{1});
  CHECK(pushed(chunk, 1) == Workers{1});  // version 2, and worker 2 computes with 0
  CHECK(pushed(chunk, 1).empty());
  CHECK(pushed(chunk, 2) == Workers{1, 2});
  CHECK(chunk.version() == 4);
}

TEST_CASE("under a bound in versions a pull lets those go on who waited for it") {
  Admission admission(versions(1));
  admission.join(1, 0, 0);
  admission.join(2, 0, 0);
  std::uint64_t version = 0;
  for (int step = 1; step <= 2; ++step) {
    admission.arrive(1, 0.0, version);
    ++version;
    if (admission.admits(1, version)) {
      admission.note_pull(1, version);
      admission.go_on(1);
    } else {
      admission.park(1);
    }
  }
  REQUIRE(admission.is_waiting(1));
  Workers released;
  admission.release(version, released);
  CHECK(released.empty());
  admission.note_pull(2, version);
  admission.release(version, released);
  CHECK(released == Workers{1});
  CHECK_FALSE(admission.is_waiting(1));
}

TEST_CASE("where all wait, all go on") {
  // Worker 3's departure leaves nobody who computes with old parameters.
  SimulatedChunk chunk = chunk_of(versions(0), 3);
  CHECK(pushed(chunk, 1).empty());
  CHECK(pushed(chunk, 2).empty());
  CHECK(chunk.leave(3) == Workers{1, 2});
}

TEST_CASE("a step's mean comes when every live worker has reached that step") {
  SimulatedChunk chunk = chunk_of(kBsp, 3);
  CHECK(pushed(chunk, 2).empty());
  CHECK(pushed(chunk, 1).empty());
  CHECK(chunk.version() == 0);
  CHECK(pushed(chunk, 3) == Workers{2, 1, 3});
  CHECK(chunk.version() == 1);
  CHECK(pushed(chunk, 1).empty());
  CHECK(pushed(chunk, 3).empty());
  CHECK(chunk.leave(2) == Workers{1, 3});
  CHECK(chunk.version() == 2);
}

TEST_CASE("a round does not wait for backup workers, whose late gradient is dropped") {
  SimulatedChunk chunk = chunk_of(backup(1), 3);
  CHECK(pushed(chunk, 1).empty());
  CHECK(pushed(chunk, 3) == Workers{1, 3});
  CHECK(chunk.version() == 1);
  const SimulatedPush late = chunk.push(2, 0.0);
  CHECK(late.dropped);
  CHECK(late.staleness == 1);
  CHECK(late.released == Workers{2});  // it takes part in the next round
  CHECK(chunk.version() == 1);
  CHECK(chunk.dropped() == 1);
  CHECK(pushed(chunk, 2).empty());
  CHECK(pushed(chunk, 1) == Workers{2, 1});
  CHECK(chunk.version() == 2);
}

TEST_CASE("with more backup workers than others, each gradient is a round") {
  SimulatedChunk chunk = chunk_of(backup(5), 2);
  CHECK(pushed(chunk, 1) == Workers{1});
  CHECK(pushed(chunk, 2) == Workers{2});
  CHECK(chunk.version() == 1);  // that of worker 2 was of an earlier round
}

TEST_CASE("a gradient is dropped beyond the limit of its staleness, not at it") {
  for (const std::uint64_t limit : {0, 1, 4}) {
    SimulatedChunk chunk = chunk_of(drop(limit), 3);
    for (std::uint64_t update = 0; update < limit; ++update) chunk.push(1, 0.0);
    const SimulatedPush at_it = chunk.push(2, 0.0);
    CHECK(at_it.staleness == limit);
    CHECK_FALSE(at_it.dropped);
    const SimulatedPush beyond = chunk.push(3, 0.0);
    CHECK(beyond.staleness == limit + 1);
    CHECK(beyond.dropped);
    CHECK(beyond.released == Workers{3});
    CHECK(chunk.version() == limit + 1);
  }
}

TEST_CASE("a dynamic bound grants steps beyond its lower limit, never beyond its upper one") {
  SimulatedChunk chunk = chunk_of({.bound = 1, .bound_max = 3}, 2);
  // Worker 1 pushes every second, worker 2 every ten: the nearest of its pushes is far off.
  chunk.push(2, 0.0);
  chunk.push(2, 10.0);
  std::uint64_t lag = 0;
  for (double now_s = 11.0; !chunk.is_waiting(1); now_s += 1.0) {
    chunk.push(1, now_s);
    lag = chunk.clock().clock(1) > 2 ? chunk.clock().lag(1) : 0;
  }
  CHECK(lag > 1);
  CHECK(lag <= 4);  // it waits with its last step done, one beyond the limit
}

TEST_CASE("a newcomer lets nobody go on, and makes those wait that it is behind") {
  SimulatedChunk chunk = chunk_of(ssp(1), 2);
  pushed(chunk, 1);
  pushed(chunk, 2);
  chunk.join(3, 1);
  CHECK(pushed(chunk, 1) == Workers{1});
  CHECK(pushed(chunk, 1).empty());
  CHECK(pushed(chunk, 2) == Workers{2});
  CHECK(chunk.is_waiting(1));
  CHECK(chunk.leave(3) == Workers{1});
}

TEST_CASE("a looser rule lets those go on whom the stricter one held") {
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    SimulatedChunk chunk = chunk_of(ssp(0), 3);
    pushed(chunk, 1);
    pushed(chunk, 2);
    REQUIRE(chunk.is_waiting(1));
    const Workers released = chunk.set_rule(kAsp);
    CHECK(released == Workers{1, 2});
    CHECK(chunk.set_rule(rule).empty());
  }
}

TEST_CASE("a rule that contradicts itself is refused, and changes nothing") {
  SimulatedChunk chunk = chunk_of(ssp(1), 2);
  const Rule wrong{.bound = 1, .gather = Gather::kRound};
  CHECK_THROWS_AS(chunk.set_rule(wrong), std::invalid_argument);
  CHECK_THROWS_AS(Admission{wrong}, std::invalid_argument);
  CHECK(chunk.rule().gather == Gather::kEach);
}

TEST_CASE("under every rule each push is let go exactly once, and somebody can always push") {
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    std::mt19937 dice(3);
    SimulatedChunk chunk(rule);
    std::map<std::uint32_t, bool> computes;  // live workers
    const auto go_on = [&](const Workers& workers) {
      for (const std::uint32_t worker : workers) {
        REQUIRE_FALSE(computes.at(worker));
        computes.at(worker) = true;
        if (rule.bound && rule.unit == BoundUnit::kClocks) {
          REQUIRE(chunk.clock().lag(worker) <= rule.bound_max.value_or(*rule.bound));
        }
      }
    };
    for (int call = 0; call < 3000; ++call) {
      const std::uint32_t worker = 1 + dice() % 6;
      const auto found = computes.find(worker);
      if (found == computes.end()) {
        chunk.join(worker, chunk.clock().minimum() + dice() % 2);
        computes[worker] = true;
      } else if (dice() % 40 == 0) {
        computes.erase(found);
        go_on(chunk.leave(worker));
      } else if (found->second) {
        found->second = false;
        go_on(chunk.push(worker, call).released);
      }
      for (const auto& [live, is_computing] : computes) {
        REQUIRE(chunk.is_waiting(live) != is_computing);
      }
      const auto can_push = [](const auto& entry) { return entry.second; };
      REQUIRE((computes.empty() || std::ranges::any_of(computes, can_push)));
    }
  }
}

TEST_CASE("under a bound in versions at most bound + N - 1 updates come between pull and push") {
  constexpr std::uint32_t kWorkers = 5;
  for (const std::uint64_t bound : {0, 1, 4}) {
    std::mt19937 dice(4);
    SimulatedChunk chunk = chunk_of(versions(bound), kWorkers);
    std::uint64_t most = 0;
    for (int call = 0; call < 5000; ++call) {
      const std::uint32_t worker = 1 + dice() % kWorkers;
      if (worker == 1 && dice() % 20 != 0) continue;  // it is slow
      if (chunk.is_waiting(worker)) continue;
      most = std::max(most, chunk.push(worker, call).staleness);
    }
    CHECK(most <= bound + kWorkers - 1);
    CHECK(most >= bound);
  }
}

TEST_CASE("in a steady state an admission allocates nothing, under any rule") {
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    constexpr std::uint32_t kWorkers = 6;
    Admission admission(rule);
    for (std::uint32_t worker = 1; worker <= kWorkers; ++worker) admission.join(worker, 0, 0);
    std::mt19937 dice(5);
    std::uint64_t version = 0;
    double now_s = 0.0;
    Workers released;
    const auto push = [&](std::uint32_t worker) {
      admission.arrive(worker, now_s += 1.0, version);
      ++version;
      if (!admission.admits(worker, version)) admission.park(worker);
      released.clear();
      admission.close_round();
      admission.release(version, released);
      if (!admission.is_waiting(worker)) released.push_back(worker);
      for (const std::uint32_t free : released) {
        admission.note_pull(free, version);
        admission.go_on(free);
      }
    };
    const auto push_a_while = [&] {
      for (int call = 0; call < 10000; ++call) {
        const std::uint32_t worker = 1 + dice() % kWorkers;
        if (!admission.is_waiting(worker)) push(worker);
      }
    };
    push_a_while();
    CHECK(allocations_of(push_a_while) == 0);
  }
}
