// What a worker writes in int8 and topk, beside plain double arithmetic.

#include "core/codecs/encode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/payloads.h"

using namespace leash;
using namespace leash::tests;

namespace {

std::vector<float> random_values(std::size_t n, std::mt19937& dice) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(dice);
  return values;
}

std::vector<std::byte> int8_of(const std::vector<float>& gradient, std::vector<float>& residual,
                               std::uint64_t seed) {
  std::vector<std::byte> payload(int8_nbytes(gradient.size(), 64));
  const std::size_t nbytes = encode_int8(gradient.data(), residual.data(), gradient.size(), 64,
                                         seed, payload.data(), kernels_in_use());
  CHECK(nbytes == payload.size());
  return payload;
}

std::vector<std::byte> topk_of(const std::vector<float>& gradient, std::vector<float>& residual,
                               std::size_t k) {
  std::vector<std::byte> payload(kTopkNbytes * k);
  const std::size_t nbytes = encode_topk(gradient.data(), residual.data(), gradient.size(), k,
                                         payload.data(), kernels_in_use());
  CHECK(nbytes == payload.size());
  return payload;
}

constexpr float kInf = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("int8 rounds to a neighbour among the multiples of the scale, and keeps the rest") {
  std::mt19937 dice(21);
  for (const std::size_t n : {0, 1, 63, 64, 65, 1000}) {
    const std::vector<float> gradient = random_values(n, dice);
    const std::vector<float> before = random_values(n, dice);
    std::vector<float> residual = before;
    const std::vector<std::byte> payload = int8_of(gradient, residual, n);
    const std::vector<float> sent =
        decoded(parse(Codec::kInt8, payload.data(), payload.size(), n, 4));
    for (std::size_t begin = 0; begin < n; begin += 64) {
      const std::size_t end = std::min(begin + 64, n);
      double largest = 0.0;
      for (std::size_t i = begin; i < end; ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(gradient[i] + before[i])));
      }
      const double scale = item<float>(payload.data(), 1 + begin / 64);
      CHECK(scale == doctest::Approx(largest / 127).epsilon(1e-6));
      for (std::size_t i = begin; i < end; ++i) {
        const double wanted = gradient[i] + before[i];
        const double q = sent[i] / scale;
        REQUIRE(std::abs(q - wanted / scale) < 1.0 + 1e-4);
        REQUIRE(residual[i] + sent[i] == doctest::Approx(wanted).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("over many seeds the mean of what int8 sends is what there was") {
  std::mt19937 dice(22);
  const std::vector<float> gradient = random_values(64, dice);
  std::vector<double> sum(64, 0.0);
  constexpr int kSeeds = 4000;
  double scale = 0.0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::vector<float> residual(64, 0.0f);
    const std::vector<std::byte> payload = int8_of(gradient, residual, static_cast<unsigned>(seed));
    const std::vector<float> sent =
        decoded(parse(Codec::kInt8, payload.data(), payload.size(), 64, 4));
    for (std::size_t i = 0; i < 64; ++i) sum[i] += sent[i];
    scale = item<float>(payload.data(), 1);
  }
  // A rounding's deviation is at most half the scale, so that of the mean is below scale / 126;
  // five of these are exceeded once in a million.
  for (std::size_t i = 0; i < 64; ++i) {
    CHECK(std::abs(sum[i] / kSeeds - gradient[i]) < 5 * scale / 126);
  }
}

TEST_CASE("nothing is lost over several steps: what was sent and the residual make up the sum") {
  std::mt19937 dice(23);
  for (const bool sparse : {false, true}) {
    std::vector<float> residual(300, 0.0f);
    std::vector<double> given(300, 0.0);
    std::vector<double> sent(300, 0.0);
    for (std::uint64_t step = 0; step < 50; ++step) {
      const std::vector<float> gradient = random_values(300, dice);
      const Codec codec = sparse ? Codec::kTopk : Codec::kInt8;
      const std::vector<std::byte> payload =
          sparse ? topk_of(gradient, residual, 30) : int8_of(gradient, residual, step);
      const std::vector<float> values =
          decoded(parse(codec, payload.data(), payload.size(), 300, 4));
      for (std::size_t i = 0; i < 300; ++i) given[i] += gradient[i], sent[i] += values[i];
    }
    for (std::size_t i = 0; i < 300; ++i) {
      REQUIRE(sent[i] + residual[i] == doctest::Approx(given[i]).epsilon(1e-4));
    }
  }
}

TEST_CASE("an int8 block that is not finite is sent as such, and clears its residual") {
  for (const float bad : {kInf, -kInf, std::nanf(""), 3.39e38f}) {
    std::vector<float> gradient(192, 1.0f);
    gradient[70] = bad;
    std::vector<float> residual(192, 0.5f);
    const std::vector<std::byte> payload = int8_of(gradient, residual, 1);
    const Encoded encoded = parse(Codec::kInt8, payload.data(), payload.size(), 192, 4);
    CHECK(find_nonfinite(encoded) == std::optional<std::size_t>(64));
    CHECK(std::all_of(residual.begin() + 64, residual.begin() + 128,
                      [](float value) { return value == 0.0f; }));
    CHECK(decoded(encoded)[0] != 0.0f);
  }
}

TEST_CASE("topk sends the largest, of equal ones the first, and keeps the others") {
  std::mt19937 dice(24);
  for (const std::size_t n : {1, 2, 31, 32, 33, 100, 5000}) {
    for (const std::size_t k : {std::size_t{0}, std::size_t{1}, max_topk(n) / 2, max_topk(n)}) {
      if (k > max_topk(n)) continue;
      std::vector<float> gradient(n);
      // Few different values, so that many are equal.
      for (float& value : gradient) value = static_cast<float>(static_cast<int>(dice() % 41) - 20);
      std::vector<float> residual(n, 0.0f);
      const std::vector<std::byte> payload = topk_of(gradient, residual, k);

      std::vector<std::uint32_t> order(n);
      std::iota(order.begin(), order.end(), 0u);
      const auto magnitude = [&](std::uint32_t i) { return -std::abs(gradient[i]); };
      std::ranges::stable_sort(order, {}, magnitude);
      order.resize(k);
      std::ranges::sort(order);

      std::vector<float> kept = gradient;
      for (std::size_t place = 0; place < k; ++place) {
        REQUIRE(item<std::uint32_t>(payload.data(), place) == order[place]);
        REQUIRE(item<float>(payload.data(), k + place) == gradient[order[place]]);
        kept[order[place]] = 0.0f;
      }
      CHECK(residual == kept);
    }
  }
}

TEST_CASE("topk sends what is not finite, and forgets what of it has no room") {
  std::vector<float> gradient(10, 1.0f);
  gradient[2] = gradient[5] = kInf;
  gradient[7] = std::nanf("");
  std::vector<float> residual(10, 0.0f);
  const std::vector<std::byte> payload = topk_of(gradient, residual, 2);
  const Encoded encoded = parse(Codec::kTopk, payload.data(), payload.size(), 10, 4);
  CHECK(find_nonfinite(encoded) == std::optional<std::size_t>(2));
  CHECK(item<std::uint32_t>(payload.data(), 1) == 7);  // a NaN counts as larger than infinity
  for (const float value : residual) CHECK(std::isfinite(value));
}
