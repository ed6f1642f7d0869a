// The loops of the codec int8, over values that share one scale.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

// What the random numbers of one payload are made from, together with the index of a value.
struct RoundingKey {
  std::uint32_t first;
  std::uint32_t second;
};

struct Int8Kernels {
  // out[i] = scale * payload[i], each an int8. REQUIRES: both hold n values and do not overlap.
  void (*decode)(float* out, const std::byte* payload, std::size_t n, float scale) noexcept;

  // residual[i] += values[i]. Returns the largest bits of any |residual[i]|, 0 if n is 0: an
  // infinity has more than any finite value, a NaN more than infinity.
  // REQUIRES: both hold n values and do not overlap.
  std::uint32_t (*add)(float* residual, const float* values, std::size_t n) noexcept;

  // With a random u in (0, 1) for each value, the same for the same key and index:
  //
  //   payload[i] = sign of residual[i] * min(floor(|residual[i]| / scale + u), 127)
  //   residual[i] -= scale * payload[i]
  //
  // u has 16 bits and is never 0, so a 0 stays 0, and the mean over u of what is written is off by
  // at most 2^-16 of the scale.
  // REQUIRES: both hold n values and do not overlap; scale is a normal number, and
  // |residual[i]| <= 127 * scale but for rounding.
  void (*quantize)(std::byte* payload, float* residual, std::size_t n, float scale, RoundingKey key,
                   std::uint32_t first_index) noexcept;
};

}  // namespace leash
