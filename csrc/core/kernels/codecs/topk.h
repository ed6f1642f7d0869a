// The loops of the codec topk. A magnitude is the bits of |value| as an integer: it orders finite
// values by size, infinity above them, and NaN above infinity.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

// Magnitudes from `low` to `last`, and some of their bits: (magnitude >> shift) & mask.
struct Digit {
  std::uint32_t low;
  std::uint32_t last;
  unsigned shift;
  std::uint32_t mask;
};

struct TopkKernels {
  // residual[i] += values[i]. REQUIRES: both hold n values and do not overlap.
  void (*add)(float* residual, const float* values, std::size_t n) noexcept;

  // ++counts[the digit] for each of n values whose magnitude is in the range.
  // REQUIRES: counts holds mask + 1.
  void (*count)(const float* values, std::size_t n, const Digit& digit,
                std::uint32_t* counts) noexcept;

  // Moves every value above the magnitude `least`, and the first `ties` that are equal to it, from
  // residual to the payload: index and value, one after the other, 0 in its place.
  // REQUIRES: indices and values, which may be unaligned, have room for all of them.
  void (*take)(float* residual, std::size_t n, std::uint32_t least, std::size_t ties,
               std::byte* indices, std::byte* values) noexcept;
};

}  // namespace leash
