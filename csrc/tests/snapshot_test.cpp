// A snapshot is what the shard was, whatever workers push while it is read.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/base/slab.h"
#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

const std::map<std::string, Rule> kRules{
    {"asp", {}},
    {"bsp", {.bound = 0, .gather = Gather::kStep}},
    {"ssp(1)", {.bound = 1}},
    {"backup(1)", {.gather = Gather::kRound, .backup_workers = 1}},
    {"drop(1)", {.staleness_limit = 1}},
};

using Numbers = std::vector<std::vector<std::byte>>;

ShardOptions with_momentum(const Rule& rule) {
  ShardOptions options = options_of(rule);
  options.optimizer = SgdOptions{.lr = 1.0, .momentum = 0.5};
  return options;
}

// The values of a chunk, then its buffers, as the shard has them now.
Numbers numbers_of(Shard& shard, std::uint32_t chunk) {
  const std::size_t nbytes = shard.spec(chunk).nbytes();
  Numbers numbers{std::vector<std::byte>(nbytes)};
  shard.pull(chunk, std::nullopt, {numbers[0].data()});
  if (shard.spec(chunk).kind == ChunkKind::kBuffer) return numbers;
  for (const std::string_view name : shard.state_names()) {
    shard.state(chunk, name, numbers.emplace_back(nbytes).data());
  }
  return numbers;
}

// The same of the open snapshot, read in two parts.
Numbers snapshot_of(const Shard& shard, std::uint32_t chunk) {
  const std::size_t nbytes = shard.spec(chunk).nbytes();
  const bool is_buffer = shard.spec(chunk).kind == ChunkKind::kBuffer;
  Numbers numbers;
  for (std::size_t array = 0; array < (is_buffer ? 1 : 1 + shard.state_names().size()); ++array) {
    const std::span out(numbers.emplace_back(nbytes));
    shard.read_snapshot(chunk, array, 0, out.first(4));
    shard.read_snapshot(chunk, array, 4, out.subspan(4));
  }
  return numbers;
}

const std::vector<ChunkSpec> kChunks{
    parameters(5),
    parameters(7),
    {.values = 3, .dtype = Dtype::kF32, .kind = ChunkKind::kBuffer},
};

}  // namespace

TEST_CASE("a snapshot stays what the shard was while it was opened, under every rule") {
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    Team team(with_momentum(rule), kChunks, 2);
    const auto train = [&](std::uint64_t step) {
      for (std::uint32_t chunk = 0; chunk < kChunks.size(); ++chunk) {
        for (std::uint32_t worker = 1; worker <= 2; ++worker) {
          team.push(worker, step, static_cast<float>(step + worker), chunk);
        }
      }
    };
    train(1);
    Numbers before[3];
    for (std::uint32_t chunk = 0; chunk < 3; ++chunk) before[chunk] = numbers_of(team.shard, chunk);
    const std::vector<ChunkMoment> moments = team.shard.open_snapshot();
    CHECK(team.shard.snapshot_nbytes() == 0);
    for (std::uint64_t step = 2; step < 5; ++step) train(step);
    for (std::uint32_t chunk = 0; chunk < 3; ++chunk) {
      CHECK(snapshot_of(team.shard, chunk) == before[chunk]);
      CHECK(numbers_of(team.shard, chunk) != before[chunk]);
      CHECK(moments[chunk].minimum == 1);
      CHECK(moments[chunk].clocks.size() == 2);
      CHECK(moments[chunk].version < team.shard.version(chunk));
    }
  }
}

TEST_CASE("a push that others wait for is in no snapshot, and its mean changes none") {
  Team team(with_momentum({.bound = 0, .gather = Gather::kStep}), 2);
  team.push(1, 1, 1.0f);
  const Numbers before = numbers_of(team.shard, 0);
  const std::vector<ChunkMoment> moments = team.shard.open_snapshot();
  CHECK(moments[0].clocks == std::vector<std::pair<std::uint32_t, std::uint64_t>>{{1, 1}, {2, 0}});
  CHECK(moments[0].minimum == 0);
  CHECK(team.shard.snapshot_nbytes() == 0);
  team.leave(2);  // which completes the mean
  CHECK(numbers_of(team.shard, 0) != before);
  CHECK(snapshot_of(team.shard, 0) == before);
}

TEST_CASE("a change of the rule and new values from outside are no part of a snapshot") {
  Team team(with_momentum({.bound = 0, .gather = Gather::kStep}), kChunks, 2);
  for (std::uint32_t chunk = 0; chunk < 3; ++chunk) team.push(1, 1, 1.0f, chunk);
  std::vector<Numbers> before;
  for (std::uint32_t chunk = 0; chunk < 3; ++chunk) {
    before.push_back(numbers_of(team.shard, chunk));
  }
  team.shard.open_snapshot();
  team.set_rule({});  // applies what waited
  team.shard.publish(1, bytes_of(std::vector<float>(7, 9.0f)).data());
  for (std::uint32_t chunk = 0; chunk < 3; ++chunk) {
    CHECK(snapshot_of(team.shard, chunk) == before[chunk]);
  }
}

TEST_CASE("the copies take as much memory as the shard, and none once all was read") {
  Team team(with_momentum({}), kChunks, 1);
  for (std::uint32_t chunk = 0; chunk < 3; ++chunk) team.push(1, 1, 1.0f, chunk);
  team.shard.open_snapshot();
  std::size_t most = 0;
  for (std::uint64_t step = 2; step < 5; ++step) {
    for (std::uint32_t chunk = 0; chunk < 3; ++chunk) team.push(1, step, 1.0f, chunk);
    most = std::max(most, team.shard.snapshot_nbytes());
  }
  CHECK(most == 5 * kCacheLine);  // values and momentum of two chunks, and a buffer
  for (std::uint32_t chunk = 0; chunk < 3; ++chunk) team.shard.release_snapshot(chunk);
  CHECK(team.shard.snapshot_nbytes() == 0);
}

TEST_CASE("a chunk that was read is copied no more") {
  Team team(options_of({}), kChunks, 1);
  team.shard.open_snapshot();
  team.shard.release_snapshot(0);
  team.push(1, 1, 1.0f, 0);
  CHECK(team.shard.snapshot_nbytes() == 0);
  team.push(1, 1, 1.0f, 1);
  CHECK(team.shard.snapshot_nbytes() == kCacheLine);
  std::byte out[4];
  CHECK_THROWS_AS(team.shard.read_snapshot(0, 0, 0, out), std::invalid_argument);
}

TEST_CASE("a buffer that had not begun reads as what it begins with") {
  ShardOptions options = options_of({});
  options.optimizer = AdagradOptions{.initial_accumulator_value = 0.5};
  Team team(options, 1);
  const Numbers before = numbers_of(team.shard, 0);
  CHECK(!team.shard.open_snapshot()[0].has_state);
  CHECK(snapshot_of(team.shard, 0) == before);
  team.push(1, 1, 1.0f);
  CHECK(snapshot_of(team.shard, 0) == before);
  CHECK(team.shard.open_snapshot()[0].has_state);
}

TEST_CASE("what cannot be read says so") {
  Team team(options_of({}), kChunks, 1);
  std::byte out[8];
  CHECK_THROWS_AS(team.shard.read_snapshot(0, 0, 0, out), std::invalid_argument);  // none is open
  team.shard.open_snapshot();
  CHECK_THROWS_AS(team.shard.read_snapshot(9, 0, 0, out), std::out_of_range);
  CHECK_THROWS_AS(team.shard.read_snapshot(0, 1, 0, out), std::invalid_argument);  // no momentum
  CHECK_THROWS_AS(team.shard.read_snapshot(0, 0, 16, out), std::invalid_argument);
  CHECK_THROWS_AS(team.shard.read_snapshot(0, 0, 21, {}), std::invalid_argument);
  team.shard.close_snapshot();
  CHECK_THROWS_AS(team.shard.read_snapshot(0, 0, 0, out), std::invalid_argument);
  Shard empty({parameters(5)}, options_of({}));
  CHECK_THROWS_AS(empty.open_snapshot(), std::invalid_argument);
}

TEST_CASE("a thread reads one snapshot after the other while others push, each of one moment") {
  constexpr std::uint32_t kWorkers = 3, kManyChunks = 8;
  constexpr std::uint64_t kSteps = 60;
  Team team(options_of({}), std::vector<ChunkSpec>(kManyChunks, parameters(600)), kWorkers);
  std::mutex mutex;  // as its contract asks: one call at a time
  std::atomic<std::uint32_t> done = 0;
  std::atomic<bool> is_right = true;
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t worker = 1; worker <= kWorkers; ++worker) {
      threads.emplace_back([&, worker] {
        for (std::uint64_t step = 1; step <= kSteps; ++step) {
          for (std::uint32_t chunk = 0; chunk < kManyChunks; ++chunk) {
            const std::lock_guard lock(mutex);
            team.push(worker, step, 1.0f, chunk);
          }
        }
        ++done;
      });
    }
    threads.emplace_back([&] {
      while (done < kWorkers) {
        std::vector<ChunkMoment> moments;
        {
          const std::lock_guard lock(mutex);
          moments = team.shard.open_snapshot();
        }
        for (std::uint32_t chunk = 0; chunk < kManyChunks; ++chunk) {
          // Each push takes 1 from every value.
          const std::vector<float> expected(600, -static_cast<float>(moments[chunk].version));
          std::vector<float> seen(600);
          const std::span out(reinterpret_cast<std::byte*>(seen.data()), 2400);
          for (std::size_t begin = 0; begin < 2400; begin += 800) {
            const std::lock_guard lock(mutex);
            team.shard.read_snapshot(chunk, 0, begin, out.subspan(begin, 800));
          }
          is_right = is_right && seen == expected;
          const std::lock_guard lock(mutex);
          team.shard.release_snapshot(chunk);
        }
      }
    });
  }
  CHECK(is_right);
  CHECK(team.value(0) == -static_cast<float>(kWorkers * kSteps));
}
