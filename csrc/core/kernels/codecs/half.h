// The loops of the codecs bf16 and f16. As for all kernels, every instruction set gives the same
// bits, also those of a NaN: one that comes in goes out with its quiet bit set.
#pragma once

#include <cstddef>

namespace leash {

struct HalfKernels {
  // REQUIRES of all: out and the input hold n values and do not overlap. payload may be unaligned.
  void (*decode_bf16)(float* out, const std::byte* payload, std::size_t n) noexcept;
  void (*decode_f16)(float* out, const std::byte* payload, std::size_t n) noexcept;

  // Round to nearest even. Infinity stays what it is; a finite value beyond the largest one becomes
  // infinity in bf16 (beyond 3.39e38, so only just) and 65504 in f16.
  void (*encode_bf16)(std::byte* payload, const float* values, std::size_t n) noexcept;
  void (*encode_f16)(std::byte* payload, const float* values, std::size_t n) noexcept;
};

}  // namespace leash
