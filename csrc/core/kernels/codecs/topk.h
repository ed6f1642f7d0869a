// The loops of the codec topk. They compare magnitudes: the bits of |value| as an integer, which
// order finite values by size, infinity above them, and NaN above infinity.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

// One digit of the magnitudes from `low` to `last`: the bits (magnitude >> shift) & mask.
struct Digit {
  std::uint32_t low;
  std::uint32_t last;
  unsigned shift;
  std::uint32_t mask;
};

struct TopkKernels {
  // residual[i] += values[i]. REQUIRES: both hold n values and do not overlap.
  void (*add)(float* residual, const float* values, std::size_t n) noexcept;

  // For each of n values whose magnitude is in the range, increments counts[its digit].
  // REQUIRES: counts has mask + 1 elements.
  void (*count)(const float* values, std::size_t n, const Digit& digit,
                std::uint32_t* counts) noexcept;

  // Moves every value above the magnitude `least`, and the first `ties` values of that magnitude,
  // out of the residual, where 0 takes their place: appends each one's index to indices, and the
  // value to values. Both may be unaligned. REQUIRES: both have room for all that is moved.
  void (*take)(float* residual, std::size_t n, std::uint32_t least, std::size_t ties,
               std::byte* indices, std::byte* values) noexcept;
};

}  // namespace leash
