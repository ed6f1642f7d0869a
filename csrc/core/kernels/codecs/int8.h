// The loops of the codec int8. One call works on values that share a scale.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

// The key of one payload. The random number of a value is a hash of the key and the value's index.
struct RoundingKey {
  std::uint32_t first;
  std::uint32_t second;
};

struct Int8Kernels {
  // out[i] = scale * payload[i], each an int8. REQUIRES: both hold n values and do not overlap.
  void (*decode)(float* out, const std::byte* payload, std::size_t n, float scale) noexcept;

  // residual[i] += values[i]. Returns the bits of the largest |residual[i]|, or 0 if n is 0. The
  // bits are compared as integers, so infinity is above every finite value, and NaN above infinity.
  // REQUIRES: both hold n values and do not overlap.
  std::uint32_t (*add)(float* residual, const float* values, std::size_t n) noexcept;

  // For each value, with a random u in (0, 1) that depends on key and index alone:
  //
  //   payload[i] = sign of residual[i] * min(floor(|residual[i]| / scale + u), 127)
  //   residual[i] -= scale * payload[i]
  //
  // first_index is the index of residual[0]. u has 16 random bits, and lies strictly between 0 and
  // 1, so that a 0 stays 0. The mean of what is written, over all u, is off by at most 2^-16 *
  // scale. REQUIRES: both hold n values and do not overlap; scale is a normal number, and
  // |residual[i]| <= 127 * scale, up to rounding.
  void (*quantize)(std::byte* payload, float* residual, std::size_t n, float scale, RoundingKey key,
                   std::uint32_t first_index) noexcept;
};

}  // namespace leash
