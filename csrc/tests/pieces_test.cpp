// Slots without a gradient, and values that would not be finite: what the Python tests compare with
// torch, here under the sanitizers.

#include "core/optimizer/pieces.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

using Bits = std::vector<std::uint8_t>;

const std::vector<std::size_t> kLengths{3, 1, 2000, 4};

ChunkSpec spec_with_pieces() {
  ChunkSpec spec = parameters(2008);
  spec.piece_lengths = kLengths;
  spec.piece_slots = {0, 1, 2, 3};
  return spec;
}

std::vector<std::uint64_t> updates_of(const Pieces& pieces) {
  std::vector<std::uint64_t> updates;
  for (std::size_t piece = 0; piece < pieces.count(); ++piece) {
    updates.push_back(pieces.updates(piece));
  }
  return updates;
}

}  // namespace

TEST_CASE("every piece counts its own updates, and equal neighbours are one run") {
  Pieces pieces(kLengths);
  CHECK(pieces.runs().size() == 1);
  pieces.count_update(Bits{0b0110});
  CHECK(updates_of(pieces) == std::vector<std::uint64_t>{1, 0, 0, 1});
  CHECK(pieces.runs().size() == 3);
  pieces.count_update({});
  CHECK(updates_of(pieces) == std::vector<std::uint64_t>{2, 1, 1, 2});
  pieces.count_update(Bits{0b1001});
  CHECK(pieces.runs().size() == 1);
  CHECK(updates_of(pieces) == std::vector<std::uint64_t>(4, 2));
}

TEST_CASE("bits name pieces, and those that are left out are none") {
  const Pieces pieces(kLengths);
  CHECK_FALSE(pieces.are_all({}));
  CHECK_FALSE(pieces.are_all(Bits{0b0111}));
  CHECK(pieces.are_all(Bits{0b1111}));
  CHECK(pieces.begin(2) == 4);
  CHECK(pieces.begin(4) == 2008);
}

TEST_CASE("whatever slots are absent, the memory of every push comes back once") {
  std::mt19937 dice(51);
  for (const Rule& rule : {Rule{}, Rule{.bound = 0, .gather = Gather::kStep}}) {
    ShardOptions options = options_of(rule);
    options.nonfinite = Nonfinite::kSkip;
    options.optimizer = AdamOptions{};
    Team team(options, {spec_with_pieces()}, 2);
    for (std::uint64_t step = 1; step <= 200; ++step) {
      for (const std::uint32_t worker : {1U, 2U}) {
        const Bits absent{static_cast<std::uint8_t>(dice() % 16)};
        const float value = dice() % 10 == 0 ? std::numeric_limits<float>::infinity() : 1.0f;
        team.push_some(worker, step, value, absent);
      }
    }
    CHECK(team.held() == 0);
    for (const float value : team.values()) CHECK(std::isfinite(value));
  }
}

TEST_CASE("a mean that would overflow is left out, and told once") {
  ShardOptions options = options_of({.bound = 0, .gather = Gather::kStep});
  options.optimizer = SgdOptions{.lr = 10.0};
  Team team(options, 2);
  team.push(1, 1, 3e38f);
  CHECK(answered(team.push(2, 1, 3e38f).replies) == Answered{{1, 1}, {2, 1}});
  CHECK(team.value() == 0.0f);
  const std::vector<Overflow> overflows = team.shard.take_overflows();
  REQUIRE(overflows.size() == 1);
  CHECK(overflows.front().step == 1);
  CHECK(team.shard.take_overflows().empty());
}
