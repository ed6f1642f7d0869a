// Shards and threads: several that share one shard under a lock, several shards side by side, and
// the threads that share the work on a large chunk.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "core/base/thread_pool.h"
#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

constexpr std::size_t kSplit = ThreadPool::kWorthSplitting + 1;  // values that a pool shares

// One shard for several threads, as its contract asks: one call at a time. The answers are handed
// to the threads that wait for them.
class LockedTeam {
 public:
  LockedTeam(const ShardOptions& options, const std::vector<ChunkSpec>& specs,
             std::uint32_t workers)
      : team_(options, specs, workers) {}

  // The whole run of one worker: the values 1, 2, ... are its gradients.
  void train(std::uint32_t worker, std::uint64_t steps, bool repeats) {
    for (std::uint64_t step = 1; step <= steps; ++step) {
      push_and_wait(worker, step, static_cast<float>(step), repeats && (step + worker) % 3 == 0);
    }
    const std::lock_guard lock(mutex_);
    hand_out(team_.leave(worker));
  }

  // Returns when the push of all chunks is answered.
  void push_and_wait(std::uint32_t worker, std::uint64_t step, float value, bool twice) {
    const auto chunks = static_cast<std::uint32_t>(team_.shard.chunks());
    for (std::uint32_t chunk = chunks; chunk-- > 0;) {
      const std::lock_guard lock(mutex_);
      hand_out(team_.push(worker, step, value, chunk).replies);
      if (twice) hand_out(team_.push(worker, step, value, chunk).replies);
    }
    std::unique_lock lock(mutex_);
    for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
      changed_.wait(lock, [&] { return answers_.contains({chunk, worker, step}); });
    }
  }

  // A worker that comes, pulls everything, and leaves again.
  void visit(std::uint32_t worker) {
    {
      const std::lock_guard lock(mutex_);
      team_.shard.join(worker, team_.shard.first_step() - 1);
    }
    for (std::uint32_t chunk = 0; chunk < team_.shard.chunks(); ++chunk) {
      const std::lock_guard lock(mutex_);
      hand_out(team_.pull(worker, chunk));
    }
    const std::lock_guard lock(mutex_);
    hand_out(team_.leave(worker));
  }

  // Reads like an evaluator. All values of a chunk are the same at any moment.
  bool is_uniform(std::uint32_t chunk) {
    const std::lock_guard lock(mutex_);
    const std::vector<float> values = team_.values(chunk);
    return std::ranges::all_of(values, [&](float value) { return value == values.front(); });
  }

  // Once all threads have ended.
  Team& team() { return team_; }
  // How often each push was answered.
  const std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>, int>& answers() const {
    return answers_;
  }

 private:
  void hand_out(const std::vector<Reply>& replies) {
    for (const Reply& reply : replies) ++answers_[{reply.chunk, reply.worker, reply.step}];
    changed_.notify_all();
  }

  Team team_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>, int> answers_;
};

const std::map<std::string, Rule> kRules{
    {"asp", {}},
    {"bsp", {.bound = 0, .gather = Gather::kStep}},
    {"ssp(1)", {.bound = 1}},
    {"dssp", {.bound = 1, .bound_max = 3}},
    {"versions(2)", {.bound = 2, .unit = BoundUnit::kVersions}},
};

// Two workers' answers over some steps: every bit that a shard hands out.
std::vector<std::byte> trained(const OptimizerOptions& optimizer, const Rule& rule, Codec codec,
                               std::size_t threads, std::size_t n) {
  ShardOptions options = options_of(rule);
  options.optimizer = optimizer;
  options.threads = threads;
  Team team(options, {parameters(n)}, 2);
  std::mt19937 dice(41);
  std::vector<std::byte> answers;
  for (std::uint64_t step = 1; step <= 2; ++step) {
    for (std::uint32_t worker = 1; worker <= 2; ++worker) {
      team.push_payload(0, worker, step, codec, random_payload(codec, n, dice), worker);
      const std::vector<std::byte> values = bytes_of(team.values());
      answers.insert(answers.end(), values.begin(), values.end());
    }
  }
  return answers;
}

const OptimizerOptions kOptimizers[] = {SgdOptions{.lr = 0.1, .momentum = 0.9, .nesterov = true},
                                        AdamOptions{.amsgrad = true}, AdagradOptions{},
                                        SumOptions{}};
const Codec kCodecs[] = {Codec::kRaw, Codec::kBf16, Codec::kF16, Codec::kInt8, Codec::kTopk};

}  // namespace

TEST_CASE("several threads that share a shard under a lock apply each push exactly once") {
  constexpr std::uint32_t kWorkers = 4;
  constexpr std::uint64_t kSteps = 10;
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    ShardOptions options = options_of(rule);
    options.threads = 3;
    std::vector<ChunkSpec> specs{parameters(kSplit)};
    // A bound in versions is each chunk's own: between two of them, workers may wait for each
    // other.
    if (rule.unit == BoundUnit::kClocks) specs.push_back(parameters(5));
    LockedTeam shared(options, specs, kWorkers);
    std::atomic<bool> uniform = true;
    {
      std::vector<std::jthread> threads;
      for (std::uint32_t worker = 1; worker <= kWorkers; ++worker) {
        threads.emplace_back([&shared, worker] { shared.train(worker, kSteps, true); });
      }
      threads.emplace_back([&] {
        for (std::uint32_t look = 0; look < 10; ++look) {
          uniform = uniform && shared.is_uniform(look % static_cast<std::uint32_t>(specs.size()));
        }
      });
      threads.emplace_back([&] {
        for (int visit = 0; visit < 10; ++visit) shared.visit(99);
      });
    }
    CHECK(uniform);
    // Every worker pushed 1 to kSteps: applied one by one, or as the means of equal parts.
    const bool by_mean = rule.gather == Gather::kStep;
    const std::uint64_t sum = kSteps * (kSteps + 1) / 2 * (by_mean ? 1 : kWorkers);
    for (std::uint32_t chunk = 0; chunk < specs.size(); ++chunk) {
      CHECK(shared.team().value(chunk) == -static_cast<float>(sum));
      CHECK(shared.team().shard.version(chunk) == kSteps * (by_mean ? 1 : kWorkers));
    }
    CHECK(shared.answers().size() == specs.size() * kWorkers * kSteps);
    CHECK(shared.team().shard.parked() == 0);
    CHECK(shared.team().held() == 0);
  }
}

TEST_CASE("a push that nobody repeats is answered exactly once, whoever calls") {
  constexpr std::uint32_t kWorkers = 4;
  for (const auto& [name, rule] : kRules) {
    CAPTURE(name);
    LockedTeam shared(options_of(rule), {parameters(5)}, kWorkers);
    {
      std::vector<std::jthread> threads;
      for (std::uint32_t worker = 1; worker <= kWorkers; ++worker) {
        threads.emplace_back([&shared, worker] { shared.train(worker, 50, false); });
      }
    }
    CHECK(shared.answers().size() == 50 * kWorkers);
    for (const auto& [push, times] : shared.answers()) REQUIRE(times == 1);
  }
}

TEST_CASE("the threads of a pool change no bit, with any optimizer and in any codec") {
  for (const OptimizerOptions& optimizer : kOptimizers) {
    for (const Codec codec : kCodecs) {
      const Rule& rule = kRules.at(std::holds_alternative<SumOptions>(optimizer) ? "bsp" : "asp");
      const std::vector<std::byte> alone = trained(optimizer, rule, codec, 1, kSplit);
      CHECK(trained(optimizer, rule, codec, 3, kSplit) == alone);
    }
  }
}

TEST_CASE("shards of several threads do not touch each other") {
  std::vector<std::vector<std::byte>> expected;
  for (const OptimizerOptions& optimizer : kOptimizers) {
    expected.push_back(trained(optimizer, kRules.at("bsp"), Codec::kBf16, 1, kSplit));
  }
  std::vector<std::vector<std::byte>> actual(expected.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      threads.emplace_back([&actual, i] {
        actual[i] = trained(kOptimizers[i], kRules.at("bsp"), Codec::kBf16, 2, kSplit);
      });
    }
  }
  CHECK(actual == expected);
}
