// Compiled once for each instruction set; see kernels_impl.h.

#include <cstddef>
#include <cstdint>

#include "core/base/float_bits.h"
#include "core/base/unaligned.h"
#include "core/kernels/codecs/int8.h"

namespace leash::LEASH_KERNELS {
namespace {

void decode(float* __restrict out, const std::byte* __restrict payload, std::size_t n,
            float scale) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = scale * static_cast<float>(load<std::int8_t>(payload, i));
  }
}

// Compares signed integers, because not every instruction set compares unsigned ones.
std::uint32_t add(float* __restrict residual, const float* __restrict values,
                  std::size_t n) noexcept {
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const float sum = residual[i] + values[i];
    residual[i] = sum;
    const auto magnitude = static_cast<std::int32_t>(bits_of(sum) & kMagnitude);
    largest = magnitude > largest ? magnitude : largest;
  }
  return static_cast<std::uint32_t>(largest);
}

// Hashes the index with multiplications and shifts in the manner of Chris Wellons' lowbias32, and
// mixes a part of the key in before each multiplication. Its caller uses the upper bits only, so
// the last shift is left out.
std::uint32_t random_bits(RoundingKey key, std::uint32_t index) noexcept {
  std::uint32_t x = index ^ key.first;
  x ^= x >> 16;
  x *= 0x7feb'352d;
  x ^= x >> 15;
  x += key.second;
  x *= 0x846c'a68b;
  return x;
}

// (2k + 1) / 2^17 for a random k of 16 bits. Its sum with a number up to 127 is exact or is rounded
// in the last bit.
float random_fraction(RoundingKey key, std::uint32_t index) noexcept {
  const std::uint32_t odd = (random_bits(key, index) >> 15) | 1;
  return static_cast<float>(static_cast<std::int32_t>(odd)) * 0x1p-17f;
}

void quantize(std::byte* __restrict payload, float* __restrict residual, std::size_t n, float scale,
              RoundingKey key, std::uint32_t first_index) noexcept {
  const float inverse = 1.0f / scale;
  for (std::size_t i = 0; i < n; ++i) {
    const float value = residual[i];
    const std::uint32_t bits = bits_of(value);
    const float u = random_fraction(key, first_index + static_cast<std::uint32_t>(i));
    // The sum is positive, so the conversion, which cuts off, is a floor.
    auto q = static_cast<std::int32_t>(float_of(bits & kMagnitude) * inverse + u);
    q = q < 127 ? q : 127;
    const std::int32_t sign = -static_cast<std::int32_t>(bits >> 31);
    q = (q ^ sign) - sign;
    store(payload, i, static_cast<std::int8_t>(q));
    residual[i] = value - scale * static_cast<float>(q);
  }
}

}  // namespace

extern const Int8Kernels kInt8Table;
const Int8Kernels kInt8Table{decode, add, quantize};

}  // namespace leash::LEASH_KERNELS
