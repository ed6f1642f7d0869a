// Means: those of a single gradient, and the answers that the pass of a mean writes.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "core/shard/shard.h"
#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

constexpr std::size_t kN = 2500;  // two blocks and a part of one
const Rule kBsp{.bound = 0, .gather = Gather::kStep};

// Its first piece and its last end within a block.
const ChunkSpec kPieces{.values = kN,
                        .dtype = Dtype::kF32,
                        .kind = ChunkKind::kParameter,
                        .piece_lengths = {300, 1500, 700},
                        .piece_slots = {0, 1, 2}};

const OptimizerOptions kOptimizers[] = {
    SgdOptions{.lr = 0.1}, SgdOptions{.lr = 0.1, .momentum = 0.9, .nesterov = true},
    AdamOptions{.amsgrad = true}, AdagradOptions{}, SumOptions{}};
const Codec kCodecs[] = {Codec::kRaw, Codec::kBf16, Codec::kF16, Codec::kInt8, Codec::kTopk};

// A worker's gradient, and the memory of its answer: the gradient's own where that is as large.
struct Pushed {
  Pushed(Codec codec, std::vector<std::byte> payload)
      : gradient_codec(codec), gradient(std::move(payload)) {
    if (codec == Codec::kInt8 || codec == Codec::kTopk) elsewhere.resize(4 * kN);
  }

  Push push(std::uint32_t worker, std::uint64_t samples, PieceBits absent = {}) {
    const bool in_place = elsewhere.empty();
    const Codec codec = in_place ? gradient_codec : Codec::kRaw;
    return {.chunk = 0,
            .worker = worker,
            .step = 1,
            .samples = samples,
            .gradient = {parse(gradient_codec, gradient.data(), gradient.size(), kN, 4), this},
            .answer = {in_place ? gradient.data() : elsewhere.data(), codec, nullptr},
            .wants_payload = true,
            .absent = absent};
  }

  // Whether it was answered with these values, in the codec of its answers.
  bool has(const std::vector<float>& values) const {
    if (!elsewhere.empty()) return elsewhere == bytes_of(values);
    if (gradient_codec == Codec::kRaw) return gradient == bytes_of(values);
    return gradient == encoded_half(gradient_codec, values);
  }

  Codec gradient_codec;
  std::vector<std::byte> gradient;
  std::vector<std::byte> elsewhere = {};
};

// The chunk's values after three steps, in which only worker 1 has samples.
std::vector<float> trained_alone(const ShardOptions& options, Codec codec, std::uint64_t samples) {
  const bool gathers = options.rule.gather != Gather::kEach;
  Team team(options, {kPieces}, gathers ? 2 : 1);
  std::mt19937 dice(47);
  const std::vector<std::uint8_t> second{0b010};
  for (std::uint64_t step = 1; step <= 3; ++step) {
    const PieceBits absent = step == 2 ? PieceBits(second) : PieceBits();
    const std::vector<std::byte> payload = random_payload(codec, kN, dice);
    if (gathers) team.push_payload(0, 2, step, codec, payload, 0);
    team.push_payload(0, 1, step, codec, payload, samples, absent);
  }
  CHECK(team.shard.version(0) == 3);
  return team.values();
}

}  // namespace

TEST_CASE("a mean of one gradient is that gradient, with any optimizer and in any codec") {
  for (const OptimizerOptions& optimizer : kOptimizers) {
    for (const Codec codec : kCodecs) {
      for (const Nonfinite nonfinite : {Nonfinite::kRaise, Nonfinite::kApply}) {
        ShardOptions options = options_of(Rule{});
        options.optimizer = optimizer;
        options.nonfinite = nonfinite;
        options.scale_lr = true;
        const std::vector<std::byte> expected = bytes_of(trained_alone(options, codec, 1));
        options.rule = kBsp;
        for (const std::uint64_t samples : {std::uint64_t{1}, std::uint64_t{49}}) {
          CHECK(bytes_of(trained_alone(options, codec, samples)) == expected);
        }
      }
    }
  }
}

TEST_CASE("a mean of one gradient counts as fresh, however stale its worker's parameters are") {
  ShardOptions options = options_of(kBsp);
  options.staleness_rate = {.decay = StalenessDecay::kInverse};
  Team team(options, {parameters(1)}, 2);
  const std::vector<std::byte> payload = bytes_of({8.0f});
  PushResult result;
  for (std::uint64_t step = 1; step <= 4; ++step) {
    team.shard.push({.chunk = 0,
                     .worker = 1,
                     .step = step,
                     .samples = 1,
                     .gradient = {parse(Codec::kRaw, payload.data(), 4, 1, 4), nullptr},
                     .answer = {},
                     .wants_payload = false},  // so it never gets newer parameters
                    result);
    team.push(2, step, 0.0f, 0, 0);
  }
  CHECK(team.shard.stats().max_staleness == 3);
  CHECK(team.value() == -32.0f);
}

TEST_CASE("every answer of a mean has the new values, in its own codec and whoever else has some") {
  const std::vector<std::uint8_t> first{0b001};
  std::mt19937 dice(48);
  for (const Nonfinite nonfinite : {Nonfinite::kRaise, Nonfinite::kApply}) {
    for (std::size_t contributors = 1; contributors <= std::size(kCodecs); ++contributors) {
      for (const PieceBits absent : {PieceBits(), PieceBits(first)}) {
        ShardOptions options = options_of(kBsp);
        options.optimizer = AdamOptions{.weight_decay = 0.1};  // changes every value
        options.nonfinite = nonfinite;
        Shard shard({kPieces}, options);
        shard.init(0, bytes_of(std::vector<float>(kN, 1.0f / 3)).data());
        std::vector<std::unique_ptr<Pushed>> pushed;
        for (std::uint32_t worker = 1; worker <= std::size(kCodecs); ++worker) {
          const Codec codec = kCodecs[(worker + contributors) % std::size(kCodecs)];
          pushed.push_back(std::make_unique<Pushed>(codec, random_payload(codec, kN, dice)));
          shard.join(worker, 0);
        }
        std::vector<std::uint32_t> order(pushed.size());
        std::iota(order.begin(), order.end(), 1u);
        std::ranges::shuffle(order, dice);
        PushResult result;
        for (std::size_t i = 0; i < order.size(); ++i) {
          const std::uint64_t samples = i < contributors ? 1 + dice() % 5 : 0;
          shard.push(pushed[order[i] - 1]->push(order[i], samples, absent), result);
        }
        REQUIRE(result.replies.size() == pushed.size());
        std::vector<float> values(kN);
        shard.pull(0, std::nullopt, {reinterpret_cast<std::byte*>(values.data())});
        CHECK((values.front() == 1.0f / 3) == !absent.empty());
        CHECK(values.back() != 1.0f / 3);
        for (const auto& push : pushed) CHECK(push->has(values));
      }
    }
  }
}
