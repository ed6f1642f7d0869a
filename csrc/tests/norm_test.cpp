// The limit for the norm of rows: what the Python tests compare with torch.renorm, here for every
// instruction set, for numbers at the ends of the range, and under the sanitizers.

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/kernels/kernels.h"
#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <typename T>
std::vector<T> limited(std::vector<T> row, double max_norm) {
  kernels_in_use().of<T>().limit_norm(row.data(), row.size(), max_norm);
  return row;
}

template <typename T>
double norm_of(const std::vector<T>& row) {
  long double sum = 0.0L;
  for (const T value : row) sum += static_cast<long double>(value) * value;
  return static_cast<double>(std::sqrt(sum));
}

template <typename T>
std::vector<T> random_row(std::size_t n, std::mt19937& dice) {
  std::normal_distribution<T> normal;
  std::vector<T> row(n);
  for (T& value : row) value = normal(dice);
  return row;
}

// Three slots: two rows of three values, three rows of 700, and a row of five.
ChunkSpec spec_with_rows() {
  ChunkSpec spec = parameters(2111);
  spec.piece_lengths = {6, 2100, 5};
  spec.piece_slots = {0, 1, 2};
  spec.row_lengths = {3, 700, 5};
  return spec;
}

OptionsTable table_of(double max_norm, std::vector<std::uint32_t> group_of_slot) {
  OptionsTable table{.groups = {{SgdOptions{.lr = 1.0}}, {SgdOptions{.lr = 1.0}}},
                     .group_of_slot = std::move(group_of_slot)};
  table.groups[1].max_norm = max_norm;
  return table;
}

}  // namespace

TEST_CASE_TEMPLATE("a row has the norm that it may have, or stays as it is", T, float, double) {
  std::mt19937 dice(3);
  for (const std::size_t n : {1UL, 2UL, 7UL, 8UL, 9UL, 1023UL, 1025UL, 5000UL}) {
    const std::vector<T> row = random_row<T>(n, dice);
    const double norm = norm_of(row);
    CHECK(norm_of(limited(row, norm / 2)) == doctest::Approx(norm / 2).epsilon(1e-6));
    CHECK(limited(row, norm * 1.001) == row);
    CHECK(norm_of(limited(row, 0.0)) == 0.0);
  }
  CHECK(limited(std::vector<T>(100), 0.0) == std::vector<T>(100));
}

TEST_CASE("every instruction set gives the same bits") {
  std::mt19937 dice(4);
  for (const std::size_t n : {5UL, 64UL, 1001UL}) {
    const std::vector<float> row = random_row<float>(n, dice);
    std::vector<float> expected = row;
    kernels_for(InstructionSet::kGeneric).f32.limit_norm(expected.data(), n, 0.7);
    for (const InstructionSet isa : instruction_sets()) {
      std::vector<float> came = row;
      kernels_for(isa).f32.limit_norm(came.data(), n, 0.7);
      CHECK(std::memcmp(came.data(), expected.data(), n * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("a row that was scaled down is not scaled again") {
  std::mt19937 dice(5);
  for (int round = 0; round < 200; ++round) {
    const auto once = limited(random_row<double>(50, dice), 1.0);
    CHECK(limited(once, 1.0) == once);
  }
}

TEST_CASE("squares that overflow make no norm infinite") {
  CHECK(norm_of(limited(std::vector<float>(9, 3.4e38f), 2.0)) == doctest::Approx(2.0));
  CHECK(norm_of(limited(std::vector<double>(9, -1.7e308), 2.0)) == doctest::Approx(2.0));
  const std::vector<double> large(4, 1e200);  // of norm 2e200
  CHECK(limited(large, 1e250) == large);
  CHECK(norm_of(limited(large, 1e200)) == doctest::Approx(1e200));
  const std::vector<float> most(2, 3.4e38f);
  CHECK(limited(most, 1e300) == most);
}

TEST_CASE("a NaN leaves its row alone, and an infinity leaves zeros and a NaN, as in torch") {
  const std::vector<double> with_nan = limited<double>({3.0, kNan, kInfinity}, 1.0);
  CHECK(with_nan[0] == 3.0);
  CHECK(with_nan[2] == kInfinity);
  const std::vector<double> with_infinity = limited<double>({3.0, -kInfinity}, 1.0);
  CHECK(with_infinity[0] == 0.0);
  CHECK(std::isnan(with_infinity[1]));
}

TEST_CASE("rows of slots that took a step are limited, whoever pushes and whatever is absent") {
  for (const Rule& rule : {Rule{}, Rule{.bound = 0, .gather = Gather::kStep}}) {
    ShardOptions options = options_of(rule);
    options.nonfinite = Nonfinite::kSkip;
    Team team(options, {spec_with_rows()}, 2);
    for (const std::uint32_t worker : {1U, 2U}) {
      team.shard.set_options(worker, table_of(0.5, {0, 1, 1}));
    }
    const std::vector<std::uint8_t> absent{0b100};
    for (const std::uint32_t worker : {1U, 2U}) {
      const PushResult result = team.push_some(worker, 1, -2.0f, absent);
      CHECK(result.outcome == Outcome::kApplied);
    }
    const std::vector<float> values = team.values();
    const auto part = [&](std::size_t begin, std::size_t n) {
      return norm_of(std::vector<float>(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                        values.begin() + static_cast<std::ptrdiff_t>(begin + n)));
    };
    CHECK(part(0, 3) > 3.0);  // in the other group
    for (const std::size_t begin : {6UL, 706UL, 1406UL}) {
      CHECK(part(begin, 700) == doctest::Approx(0.5).epsilon(1e-6));
    }
    CHECK(part(2106, 5) == 0.0);
    CHECK(team.held() == 0);
  }
}

TEST_CASE("threads limit the rows of a large chunk with the bits of one thread") {
  std::mt19937 dice(6);
  ChunkSpec spec = parameters(200'000);
  spec.piece_lengths = {7 * 11'000, 23'000, 100'000};
  spec.piece_slots = {0, 1, 2};
  spec.row_lengths = {7, 23'000, 50'000};
  const std::vector<std::byte> gradient = bytes_of(random_row<float>(spec.values, dice));
  std::vector<std::vector<float>> results;
  for (const std::size_t threads : {1UL, 4UL}) {
    ShardOptions options = options_of({});
    options.threads = threads;
    Team team(options, {spec}, 1);
    team.shard.set_options(1, table_of(0.9, {1, 1, 1}));
    for (std::uint64_t step = 1; step <= 3; ++step) {
      team.push_payload(0, 1, step, Codec::kRaw, gradient);
    }
    results.push_back(team.values());
  }
  CHECK(results[0] == results[1]);
}

TEST_CASE("a norm is refused for a slot of which a row lies in two chunks") {
  ChunkSpec spec = spec_with_rows();
  spec.row_lengths = {3, 0, 5};
  Team team(options_of({}), {spec}, 1);
  CHECK_THROWS_WITH(team.shard.set_options(1, table_of(1.0, {0, 1, 0})),
                    doctest::Contains("max_norm: rows of slot 1 lie in two chunks"));
  CHECK_NOTHROW(team.shard.set_options(1, table_of(1.0, {1, 0, 1})));
}
