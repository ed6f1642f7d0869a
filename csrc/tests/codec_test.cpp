// Payloads are decoded as plain double arithmetic says, refused if they are not well formed, and
// never lead outside of any array, whatever their sender makes of them afterwards.

#include "core/codecs/codec.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "tests/support/payloads.h"

using namespace leash;
using namespace leash::tests;

namespace {

// What 16 bits of an IEEE 754 format with so many bits of exponent stand for.
double half_value(std::uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

int exponent_bits(Codec codec) { return codec == Codec::kBf16 ? 8 : 5; }

// The nearest positive finite value of the format, of two the one that is even.
std::uint16_t nearest_half(double value, Codec codec) {
  const int bits = exponent_bits(codec);
  std::uint16_t low = 0;
  auto high = static_cast<std::uint16_t>(((1 << bits) - 1) << (15 - bits));  // infinity
  while (high - low > 1) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (half_value(middle, bits) <= value ? low : high) = middle;
  }
  const double below = half_value(low, bits);
  const double step = std::abs(below - half_value(static_cast<std::uint16_t>(low ^ 1), bits));
  const double above = std::isinf(half_value(high, bits)) ? below + step : half_value(high, bits);
  if (value - below != above - value) return value - below < above - value ? low : high;
  return low % 2 == 0 ? low : high;
}

const Codec kHalves[] = {Codec::kBf16, Codec::kF16};
const Codec kAll[] = {Codec::kBf16, Codec::kF16, Codec::kInt8, Codec::kTopk};

}  // namespace

TEST_CASE("every one of the 65536 halves is decoded to what it stands for") {
  for (const Codec codec : kHalves) {
    std::vector<std::uint16_t> halves(65536);
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
    const auto* const data = reinterpret_cast<const std::byte*>(halves.data());
    const std::vector<float> values = decoded(parse(codec, data, 2 * 65536, 65536, 4));
    for (std::size_t i = 0; i < halves.size(); ++i) {
      const double expected = half_value(halves[i], exponent_bits(codec));
      if (std::isnan(expected)) {
        REQUIRE(std::isnan(values[i]));
      } else {
        REQUIRE(static_cast<double>(values[i]) == expected);
      }
    }
  }
}

TEST_CASE("a value becomes the nearest half, of two the even one") {
  for (const Codec codec : kHalves) {
    const int bits = exponent_bits(codec);
    const double largest = codec == Codec::kF16 ? 65504.0 : half_value(0x7f7f, 8);
    std::vector<float> values{0.0f, 1.0f, 65504.0f, 65519.9f, 65520.0f, 1e-8f, 0x1p-24f, 0x1p-25f};
    std::mt19937 dice(6);
    for (int i = 0; i < 20000; ++i) {
      const int exponent = static_cast<int>(dice() % 60) - 40;
      values.push_back(std::ldexp(static_cast<float>(1 + dice() % (1 << 23)), exponent - 23));
    }
    for (std::uint16_t half = 0; half < 0x7c00; half = static_cast<std::uint16_t>(half + 7)) {
      // Exactly between two neighbours.
      const double above = half_value(static_cast<std::uint16_t>(half + 1), bits);
      values.push_back(static_cast<float>((half_value(half, bits) + above) / 2));
    }
    const std::vector<std::byte> payload = encoded_half(codec, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isinf(values[i])) continue;
      const double value = std::min(static_cast<double>(values[i]), largest);
      REQUIRE(item<std::uint16_t>(payload.data(), i) == nearest_half(value, codec));
    }
  }
}

TEST_CASE("halves of infinities, NaN and negative values") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Codec codec : kHalves) {
    const std::vector<float> values{kInf, -kInf, std::nanf(""), -1.0f, -0.0f, -1e30f, 1e30f};
    const std::vector<std::byte> payload = encoded_half(codec, values);
    const std::vector<float> back = decoded(parse(codec, payload.data(), payload.size(), 7, 4));
    CHECK(back[0] == kInf);
    CHECK(back[1] == -kInf);
    CHECK(std::isnan(back[2]));
    CHECK(back[3] == -1.0f);
    CHECK(std::signbit(back[4]));
    CHECK(std::isfinite(back[5]));
    CHECK(back[6] == -back[5]);
  }
}

TEST_CASE("int8 values are their block's scale times an integer") {
  std::mt19937 dice(7);
  for (const std::size_t n : {0, 1, 63, 64, 65, 128, 1000}) {
    const Int8 written = random_int8(n, 64, dice);
    const std::vector<float> values = decoded(written.parsed());
    for (std::size_t i = 0; i < n; ++i) {
      const auto q = static_cast<std::int8_t>(written.bytes[written.bytes.size() - n + i]);
      const double scale = item<float>(written.bytes.data(), 1 + i / 64);
      REQUIRE(values[i] == static_cast<float>(scale * q));
    }
  }
}

TEST_CASE("any range of a payload decodes as it does in the whole") {
  std::mt19937 dice(8);
  constexpr std::size_t kN = 700;
  for (const Codec codec : kAll) {
    const std::vector<std::byte> payload = random_payload(codec, kN, dice);
    const Encoded encoded = parse(codec, payload.data(), payload.size(), kN, 4);
    const std::vector<float> whole = decoded(encoded);
    for (int call = 0; call < 200; ++call) {
      const std::size_t begin = dice() % (kN + 1);
      const std::size_t n = dice() % (kN - begin + 1);
      const std::vector<float> part = decoded(encoded, begin, n);
      REQUIRE(
          std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }
}

TEST_CASE("a payload may begin at any byte") {
  std::mt19937 dice(9);
  for (const Codec codec : kAll) {
    const std::vector<std::byte> payload = random_payload(codec, 200, dice);
    const std::vector<float> expected =
        decoded(parse(codec, payload.data(), payload.size(), 200, 4));
    for (std::size_t shift = 1; shift < 8; ++shift) {
      std::vector<std::byte> moved(payload.size() + shift);
      std::ranges::copy(payload, moved.begin() + static_cast<std::ptrdiff_t>(shift));
      CHECK(decoded(parse(codec, moved.data() + shift, payload.size(), 200, 4)) == expected);
    }
  }
}

TEST_CASE("a payload of another size is refused") {
  std::mt19937 dice(10);
  for (const Codec codec : {Codec::kRaw, Codec::kBf16, Codec::kF16, Codec::kInt8}) {
    std::vector<std::byte> payload = random_payload(codec, 100, dice);
    payload.resize(payload.size() + 8);
    const std::size_t right = payload.size() - 8;
    CHECK_NOTHROW(parse(codec, payload.data(), right, 100, 4));
    for (const std::size_t wrong : {std::size_t{0}, right - 1, right + 1, right + 8}) {
      CHECK_THROWS_AS(parse(codec, payload.data(), wrong, 100, 4), std::invalid_argument);
    }
  }
}

TEST_CASE("an int8 block that is none is refused") {
  for (const std::uint32_t block : {0u, 1u, 32u, 63u, 65u, 100u, 131072u, 0xffff'ffffu}) {
    std::vector<std::byte> payload(8 + 64);
    std::memcpy(payload.data(), &block, 4);
    CHECK_THROWS_AS(parse(Codec::kInt8, payload.data(), payload.size(), 64, 4),
                    std::invalid_argument);
  }
}

TEST_CASE("topk's indices ascend, each once and below the count of values, at most half of them") {
  const auto check = [](const std::vector<std::uint32_t>& indices, std::size_t values) {
    const std::vector<std::byte> payload = topk_payload(indices, 1.0f);
    parse(Codec::kTopk, payload.data(), payload.size(), values, 4);
  };
  CHECK_NOTHROW(check({}, 0));
  CHECK_NOTHROW(check({0}, 1));  // one of one is allowed
  CHECK_NOTHROW(check({0, 9}, 10));
  CHECK_NOTHROW(check({0, 1, 2, 3, 4}, 10));
  CHECK_THROWS_AS(check({0}, 0), std::invalid_argument);
  CHECK_THROWS_AS(check({10}, 10), std::invalid_argument);
  CHECK_THROWS_AS(check({0xffff'ffff}, 10), std::invalid_argument);
  CHECK_THROWS_AS(check({3, 2}, 10), std::invalid_argument);
  CHECK_THROWS_AS(check({3, 3}, 10), std::invalid_argument);
  CHECK_THROWS_AS(check({0, 1, 2, 3, 4, 5}, 10), std::invalid_argument);
  const std::vector<std::byte> payload = topk_payload({1}, 1.0f);
  CHECK_THROWS_AS(parse(Codec::kTopk, payload.data(), 7, 10, 4), std::invalid_argument);
}

TEST_CASE("the first value that is not finite is found, and its index is the chunk's") {
  std::mt19937 dice(11);
  constexpr std::size_t kN = 3000;
  for (const Codec codec : kAll) {
    for (int call = 0; call < 300; ++call) {
      std::vector<std::byte> payload = random_payload(codec, kN, dice);
      for (unsigned bad = dice() % 3; bad > 0; --bad) make_nonfinite(codec, payload, kN, dice);
      const Encoded encoded = parse(codec, payload.data(), payload.size(), kN, 4);
      // Of a NaN or infinite scale, even 0 is not finite.
      const std::vector<float> values = decoded(encoded);
      const auto is_bad = [](float value) { return !std::isfinite(value); };
      const auto first = std::ranges::find_if(values, is_bad);
      const std::optional<std::size_t> found = find_nonfinite(encoded);
      REQUIRE(found.has_value() == (first != values.end()));
      if (found && codec == Codec::kInt8) {
        REQUIRE(*found / 64 == static_cast<std::size_t>(first - values.begin()) / 64);
      } else if (found) {
        REQUIRE(*found == static_cast<std::size_t>(first - values.begin()));
      }
    }
  }
}

TEST_CASE("what a sender makes of its payload once it was checked leads outside of nothing") {
  std::mt19937 dice(12);
  constexpr std::size_t kN = 300;
  constexpr std::uint32_t kNan = 0x7fc0'0000;
  for (const Codec codec : kAll) {
    for (int call = 0; call < 300; ++call) {
      const std::vector<std::byte> payload = random_payload(codec, kN, dice);
      // Exactly as long as it is, so that a sanitizer sees the first byte beyond.
      const auto memory = std::make_unique<std::byte[]>(payload.size());
      std::ranges::copy(payload, memory.get());
      const Encoded encoded = parse(codec, memory.get(), payload.size(), kN, 4);
      for (std::size_t place = 0; place + 4 <= payload.size(); place += 4) {
        const std::uint32_t words[] = {static_cast<std::uint32_t>(dice()), kNan, 0xffff'ffffu, 0u};
        std::memcpy(memory.get() + place, &words[dice() % 4], 4);
      }
      const std::optional<std::size_t> found = find_nonfinite(encoded);
      REQUIRE((!found || *found < kN));
      for (const std::size_t begin : {std::size_t{0}, std::size_t{1}, kN / 2, kN}) {
        REQUIRE(decoded(encoded, begin, kN - begin).size() == kN - begin);
      }
    }
  }
}

TEST_CASE("an index of topk that is changed after the check is not handed on") {
  std::vector<std::byte> payload = topk_payload({1, 5}, std::numeric_limits<float>::infinity());
  const Encoded encoded = parse(Codec::kTopk, payload.data(), payload.size(), 10, 4);
  CHECK(find_nonfinite(encoded) == std::optional<std::size_t>(1));
  for (const std::uint32_t changed : {10u, 11u, 0x8000'0000u, 0xffff'ffffu}) {
    std::memcpy(payload.data(), &changed, 4);
    CHECK(find_nonfinite(encoded) == std::optional<std::size_t>(9));
  }
}
