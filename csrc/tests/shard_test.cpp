// What a shard promises, one promise a test. The values are integers, so sums are exact.

#include "core/shard/shard.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/errors.h"
#include "tests/support/allocations.h"
#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

const Rule kAsp{};
const Rule kBsp{.bound = 0, .gather = Gather::kStep};
const Rule kBackup{.gather = Gather::kRound, .backup_workers = 1};

Rule ssp(std::uint64_t bound) { return {.bound = bound}; }
Rule versions(std::uint64_t bound) { return {.bound = bound, .unit = BoundUnit::kVersions}; }

const std::map<std::string, Rule> kRules{
    {"asp", kAsp},
    {"bsp", kBsp},
    {"ssp(1)", ssp(1)},
    {"dssp", {.bound = 1, .bound_max = 4}},
    {"versions(2)", versions(2)},
    {"backup(1)", kBackup},
    {"drop(1)", {.staleness_limit = 1}},
};

constexpr float kInf = std::numeric_limits<float>::infinity();

}  // namespace

// Exactly once

TEST_CASE("a push is applied once, however often it comes") {
  Team team(options_of(kAsp), 2);
  CHECK(team.push(1, 1, 3.0f).outcome == Outcome::kApplied);
  for (int again = 0; again < 3; ++again) {
    const PushResult result = team.push(1, 1, 3.0f);
    CHECK(result.outcome == Outcome::kDuplicate);
    CHECK(answered(result.replies) == Answered{{1, 1}});
    CHECK(result.clock == 1);
  }
  CHECK(team.value() == -3.0f);
  CHECK(team.shard.stats().duplicates == 3);
}

TEST_CASE("a gap changes nothing, and says where the worker stands") {
  Team team(options_of(kAsp), 2);
  team.push(1, 1, 1.0f);
  const PushResult result = team.push(1, 3, 1.0f);
  CHECK(result.outcome == Outcome::kGap);
  CHECK(result.clock == 1);
  CHECK(result.replies.empty());
  CHECK(team.value() == -1.0f);
  CHECK(team.held() == 0);
}

TEST_CASE("a worker that is not live, and a chunk without values, change nothing") {
  Team team(options_of(kAsp), 1);
  CHECK(team.push(2, 1, 1.0f).outcome == Outcome::kNotLive);
  Team fresh(options_of(kAsp), {}, 0);
  Shard shard({parameters(5)}, options_of(kAsp));
  shard.join(1, 0);
  std::vector<std::byte> memory(20);
  PushResult result;
  shard.push({.chunk = 0,
              .worker = 1,
              .step = 1,
              .samples = 1,
              .gradient = {parse(Codec::kRaw, memory.data(), 20, 5, 4), memory.data()},
              .answer = {},
              .wants_payload = false},
             result);
  CHECK(result.outcome == Outcome::kUninitialized);
  std::vector<void*> freed;
  shard.take_freed(freed);
  CHECK(freed == std::vector<void*>{memory.data()});
  CHECK_THROWS_AS(shard.pull(0, std::nullopt, {memory.data()}), std::invalid_argument);
}

TEST_CASE("a chunk that is not there is refused, by the number that the whole model gives it") {
  ShardOptions options = options_of(kAsp);
  options.first_chunk = 7;
  Shard shard({parameters(5), parameters(5)}, options);
  for (const std::uint32_t wrong : {0u, 6u, 9u, 0xffff'ffffu}) {
    CHECK_THROWS_AS(shard.version(wrong), std::out_of_range);
  }
  CHECK(shard.version(7) == 0);
  CHECK(shard.version(8) == 0);
}

// Who waits

TEST_CASE("a reply waits while its worker is beyond the bound, and goes out once") {
  Team team(options_of(ssp(1)), 2);
  CHECK(answered(team.push(1, 1, 1.0f).replies) == Answered{{1, 1}});
  CHECK(team.push(1, 2, 1.0f).replies.empty());
  CHECK(team.shard.parked() == 1);
  CHECK(answered(team.push(2, 1, 1.0f).replies) == Answered{{1, 2}, {2, 1}});
  CHECK(team.shard.parked() == 0);
  CHECK(team.push(2, 2, 1.0f).replies.size() == 1);
  CHECK(team.value() == -4.0f);
}

TEST_CASE("replies go out in the order in which their pushes came") {
  Team team(options_of(kBsp), 4);
  CHECK(team.push(3, 1, 1.0f).replies.empty());
  CHECK(team.push(1, 1, 1.0f).replies.empty());
  CHECK(team.push(4, 1, 1.0f).replies.empty());
  const std::vector<Reply> replies = team.push(2, 1, 1.0f).replies;
  CHECK(answered(replies) == Answered{{3, 1}, {1, 1}, {4, 1}, {2, 1}});
  for (const Reply& reply : replies) CHECK(reply.version == 1);
}

TEST_CASE("a push that is asked for again while it waits is answered once, by the newer memory") {
  Team team(options_of(ssp(0)), 2);
  CHECK(team.push(1, 1, 1.0f).replies.empty());
  CHECK(team.held() == 1);
  CHECK(team.push(1, 1, 1.0f).replies.empty());
  CHECK(team.held() == 1);  // the older one came back
  CHECK(answered(team.push(2, 1, 1.0f).replies) == Answered{{1, 1}, {2, 1}});
  CHECK(team.held() == 0);
}

TEST_CASE("a departure lets those go on who waited for it, and forgets what waited for itself") {
  for (const Rule& rule : {ssp(0), kBsp, versions(0)}) {
    Team team(options_of(rule), 3);
    CHECK(team.push(1, 1, 2.0f).replies.empty());
    CHECK(team.push(2, 1, 2.0f).replies.empty());
    CHECK(answered(team.leave(3)) == Answered{{1, 1}, {2, 1}});
    CHECK(team.push(2, 2, 2.0f).replies.empty());
    CHECK(team.leave(2).empty());
    CHECK(team.held() == 0);
    CHECK_THROWS_AS(team.shard.leave(2), NotLive);
  }
}

TEST_CASE("under a bound in versions a pull answers those who waited for it") {
  for (const std::uint64_t bound : {0, 1, 3}) {
    Team team(options_of(versions(bound)), 3);
    // Worker 3 computes with version 0 throughout.
    CHECK(team.pull(3).empty());
    for (std::uint64_t step = 1; step <= bound; ++step) {
      CHECK(answered(team.push(1, step, 1.0f).replies) == Answered{{1, step}});
    }
    CHECK(team.push(1, bound + 1, 1.0f).replies.empty());
    CHECK(team.push(2, 1, 1.0f).replies.empty());
    CHECK(answered(team.pull(3)) == Answered{{1, bound + 1}, {2, 1}});
    CHECK(team.shard.parked() == 0);
    CHECK(team.held() == 0);
  }
}

TEST_CASE("a pull by nobody, by a stranger or by one who waits lets nobody go on") {
  Team team(options_of(versions(0)), 2);
  CHECK(team.push(1, 1, 1.0f).replies.empty());
  CHECK(team.values().front() == -1.0f);
  CHECK(team.pull(9).empty());
  CHECK(team.pull(1).empty());
  CHECK(team.shard.parked() == 1);
}

TEST_CASE("a newcomer lets nobody go on, and no clock gets beyond its bound before it pushes") {
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    Team team(options_of(rule), 2);
    team.push(1, 1, 1.0f);
    const std::size_t parked = team.shard.parked();
    team.shard.join(3, team.shard.first_step() - 1);
    CHECK(team.shard.parked() == parked);
    team.push(2, 1, 1.0f);
    CHECK(team.shard.minimum(0) == 0);
  }
}

TEST_CASE("a looser rule answers those whom the stricter one held") {
  for (const Rule& strict : {ssp(0), kBsp, versions(0)}) {
    Team team(options_of(strict), 3);
    team.push(1, 1, 2.0f);
    team.push(2, 1, 2.0f);
    CHECK(answered(team.set_rule(kAsp)) == Answered{{1, 1}, {2, 1}});
    CHECK(team.value() == -4.0f);  // what was gathered is applied one by one
    CHECK(team.held() == 0);
  }
}

// Means

TEST_CASE("a mean has the same bits whatever the order in which its parts came") {
  std::mt19937 dice(31);
  std::normal_distribution<float> normal;
  constexpr std::size_t kN = 100;
  constexpr std::uint32_t kWorkers = 5;
  std::vector<std::vector<float>> gradients(kWorkers, std::vector<float>(kN));
  for (auto& gradient : gradients) {
    for (float& value : gradient) value = normal(dice);
  }
  // Weighted by samples, and summed in the order of the workers.
  std::vector<float> expected(kN, 0.0f);
  for (std::uint32_t worker = 1; worker <= kWorkers; ++worker) {
    const auto weight = static_cast<float>(worker / 15.0);
    for (std::size_t i = 0; i < kN; ++i) expected[i] += weight * gradients[worker - 1][i];
  }
  for (float& value : expected) value = 0.0f - value;

  std::vector<std::uint32_t> order(kWorkers);
  std::iota(order.begin(), order.end(), 1u);
  for (int run = 0; run < 20; ++run) {
    std::ranges::shuffle(order, dice);
    Team team(options_of(kBsp), {parameters(kN)}, kWorkers);
    for (const std::uint32_t worker : order) {
      team.push_payload(0, worker, 1, Codec::kRaw, bytes_of(gradients[worker - 1]), worker);
    }
    const std::vector<float> values = team.values();
    REQUIRE(std::memcmp(values.data(), expected.data(), kN * sizeof(float)) == 0);
  }
}

TEST_CASE("means come in the order of their steps, each with those who have reached it") {
  Team team(options_of(kBsp), 2);
  team.push(1, 1, 2.0f);
  CHECK(team.value() == 0.0f);
  team.push(2, 1, 4.0f);
  CHECK(team.value() == -3.0f);
  team.push(1, 2, 5.0f);
  team.push(2, 2, 7.0f);
  CHECK(team.value() == -9.0f);
  CHECK(team.shard.version(0) == 2);
}

TEST_CASE("a part without samples is waited for, and is no part of the mean") {
  Team team(options_of(kBsp), 2);
  team.push(1, 1, 100.0f, 0, 0);
  CHECK(answered(team.push(2, 1, 4.0f).replies) == Answered{{1, 1}, {2, 1}});
  CHECK(team.value() == -4.0f);
}

TEST_CASE("a round takes those who came first; the late gradient is answered and dropped") {
  Team team(options_of(kBackup), 3);
  CHECK(team.push(3, 1, 2.0f).replies.empty());
  CHECK(answered(team.push(1, 1, 4.0f).replies) == Answered{{3, 1}, {1, 1}});
  CHECK(team.value() == -3.0f);
  const PushResult late = team.push(2, 1, 100.0f);
  CHECK(late.outcome == Outcome::kDropped);
  CHECK(late.replies.front().dropped);
  CHECK(team.value() == -3.0f);
  CHECK(team.shard.stats().dropped == 1);
  CHECK(team.held() == 0);
}

TEST_CASE("a gradient beyond the limit of its staleness is answered and not applied") {
  Team team(options_of({.staleness_limit = 1}), 3);
  team.push(1, 1, 1.0f);
  CHECK(team.push(2, 1, 1.0f).outcome == Outcome::kApplied);  // 1 stale
  const PushResult beyond = team.push(3, 1, 1.0f);            // 2 stale
  CHECK(beyond.outcome == Outcome::kDropped);
  CHECK(answered(beyond.replies) == Answered{{3, 1}});
  CHECK(team.value() == -2.0f);
}

// What is not finite

TEST_CASE("a gradient that is not finite is found, counted and not applied, in every codec") {
  for (const Codec codec : {Codec::kRaw, Codec::kBf16, Codec::kF16, Codec::kInt8, Codec::kTopk}) {
    for (const Nonfinite policy : {Nonfinite::kRaise, Nonfinite::kSkip}) {
      std::mt19937 dice(32);
      ShardOptions options = options_of(kAsp);
      options.nonfinite = policy;
      Team team(options, {parameters(64)}, 1);
      std::vector<std::byte> payload = random_payload(codec, 64, dice);
      if (codec == Codec::kRaw) {
        std::memcpy(payload.data() + 12, &kInf, 4);
      } else {
        make_nonfinite(codec, payload, 64, dice);
      }
      const PushResult result = team.push_payload(0, 1, 1, codec, payload);
      CHECK(result.outcome == Outcome::kNonfinite);
      CHECK(result.nonfinite_index.value() < 64);
      CHECK(result.clock == 1);
      // kRaise leaves the answer to the caller.
      CHECK(result.replies.size() == (policy == Nonfinite::kSkip ? 1 : 0));
      CHECK(team.value() == 0.0f);
      CHECK(team.shard.stats().nonfinite == 1);
      CHECK(team.held() == 0);
    }
  }
}

TEST_CASE("a push that is not finite is no part of a mean, which does not wait for ever") {
  Team team(options_of(kBsp), 2);
  team.push(1, 1, kInf);
  CHECK(answered(team.push(2, 1, 4.0f).replies) == Answered{{2, 1}});
  CHECK(team.value() == -4.0f);
}

TEST_CASE("where nobody looks, what is not finite is applied") {
  ShardOptions options = options_of(kAsp);
  options.nonfinite = Nonfinite::kApply;
  Team team(options, 1);
  CHECK(team.push(1, 1, kInf).outcome == Outcome::kApplied);
  CHECK(team.value() == -kInf);
}

// Codecs

TEST_CASE("a push in any codec changes the values by what it decodes to") {
  std::mt19937 dice(33);
  for (const Codec codec : {Codec::kBf16, Codec::kF16, Codec::kInt8, Codec::kTopk}) {
    for (const Rule& rule : {kAsp, kBsp}) {
      constexpr std::size_t kN = 3000;  // several blocks of the passes over memory
      Team team(options_of(rule), {parameters(kN)}, 1);
      const std::vector<std::byte> payload = random_payload(codec, kN, dice);
      const std::vector<float> gradient =
          decoded(parse(codec, payload.data(), payload.size(), kN, 4));
      team.push_payload(0, 1, 1, codec, payload);
      const std::vector<float> values = team.values();
      for (std::size_t i = 0; i < kN; ++i) REQUIRE(values[i] == 0.0f - gradient[i]);
    }
  }
}

TEST_CASE("a gradient that its sender changes while it waits for a mean leads outside of nothing") {
  constexpr std::size_t kN = 1500;
  for (const Codec codec : {Codec::kBf16, Codec::kF16, Codec::kInt8, Codec::kTopk}) {
    std::mt19937 dice(34);
    Shard shard({parameters(kN)}, options_of(kBsp));
    shard.init(0, std::vector<std::byte>(4 * kN).data());
    std::vector<std::vector<std::byte>> payloads;
    std::vector<std::vector<std::byte>> answers(2, std::vector<std::byte>(4 * kN));
    for (std::uint32_t worker = 1; worker <= 2; ++worker) {
      shard.join(worker, 0);
      payloads.push_back(random_payload(codec, kN, dice));
    }
    PushResult result;
    for (std::uint32_t worker = 1; worker <= 2; ++worker) {
      std::vector<std::byte>& payload = payloads[worker - 1];
      const Encoded encoded = parse(codec, payload.data(), payload.size(), kN, 4);
      std::byte* const answer = answers[worker - 1].data();
      shard.push({.chunk = 0,
                  .worker = worker,
                  .step = 1,
                  .samples = 1,
                  .gradient = {encoded, &payload},
                  .answer = {answer, Codec::kRaw, answer},
                  .wants_payload = true},
                 result);
      std::ranges::generate(payload, [&] { return static_cast<std::byte>(dice()); });
    }
    CHECK(result.replies.size() == 2);
  }
}

// Memory

TEST_CASE("whatever happens, the memory of every push comes back exactly once") {
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    std::mt19937 dice(35);
    ShardOptions options = options_of(rule);
    options.nonfinite = Nonfinite::kSkip;
    Team team(options, {parameters(5), parameters(5)}, 3);
    for (int call = 0; call < 2000; ++call) {
      const std::uint32_t worker = 1 + dice() % 4;
      const std::vector<std::uint32_t> live = team.shard.workers();
      const bool is_live = std::ranges::count(live, worker) != 0;
      if (!is_live) {
        team.shard.join(worker, team.shard.first_step() - 1 + dice() % 2);
      } else if (dice() % 30 == 0) {
        team.leave(worker);
      } else if (dice() % 30 == 0) {
        team.pull(worker, dice() % 2);
      } else if (dice() % 50 == 0) {
        auto next = kRules.begin();
        std::advance(next, dice() % kRules.size());
        team.set_rule(next->second);
      } else if (dice() % 30 == 0) {
        team.shard.unpark(dice() % 2, worker);
        team.take_freed();
      } else {
        const std::uint32_t chunk = dice() % 2;
        const std::uint64_t step = team.shard.clock(chunk, worker) + (dice() % 8 == 0 ? 0 : 1);
        team.push(worker, step, dice() % 20 == 0 ? kInf : 1.0f, chunk, dice() % 3);
      }
      REQUIRE(team.held() >= team.shard.parked());
    }
    team.shard.abandon();
    team.take_freed();
    CHECK(team.held() == 0);
    CHECK(team.shard.parked() == 0);
  }
}

TEST_CASE("in a steady state a push allocates nothing, under any rule and in any codec") {
  constexpr std::size_t kN = 100;
  constexpr std::uint32_t kWorkers = 4;
  for (const auto& [name, rule] : kRules) {
    for (const Codec codec : {Codec::kRaw, Codec::kBf16, Codec::kInt8, Codec::kTopk}) {
      CAPTURE(name);
      std::mt19937 dice(36);
      const std::vector<std::byte> payload = random_payload(codec, kN, dice);
      // The memory of each worker's pushes, which it uses again when it has its answer.
      std::vector<std::vector<std::byte>> memories(kWorkers + 1, payload);
      std::vector<std::vector<std::byte>> elsewhere(kWorkers + 1, std::vector<std::byte>(4 * kN));
      Team team(options_of(rule), {parameters(kN)}, kWorkers);
      std::vector<bool> waits(kWorkers + 1, false);
      std::vector<std::uint64_t> steps(kWorkers + 1, 0);
      std::vector<void*> freed;
      PushResult result;
      std::size_t answers = 0;
      const auto push_a_while = [&] {
        for (int call = 0; call < 1000; ++call) {
          const std::uint32_t worker = 1 + dice() % kWorkers;
          if (waits[worker]) continue;
          std::vector<std::byte>& memory = memories[worker];
          std::ranges::copy(payload, memory.begin());
          const bool in_place = codec == Codec::kRaw || codec == Codec::kBf16;
          std::byte* const answer = in_place ? memory.data() : elsewhere[worker].data();
          team.shard.push({.chunk = 0,
                           .worker = worker,
                           .step = ++steps[worker],
                           .samples = 1,
                           .gradient = {parse(codec, memory.data(), memory.size(), kN, 4), &memory},
                           .answer = {answer, in_place ? codec : Codec::kRaw, &memory},
                           .wants_payload = true,
                           .now_s = static_cast<double>(call)},
                          result);
          team.shard.take_freed(freed);
          waits[worker] = true;
          for (const Reply& reply : result.replies) waits[reply.worker] = false;
          answers += result.replies.size();
        }
      };
      push_a_while();
      answers = 0;
      CHECK(allocations_of(push_a_while) == 0);
      CHECK(answers > 100);
    }
  }
}
