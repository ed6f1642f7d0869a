// The loops of the codecs bf16 and f16. As all kernels, they give the same bits on every
// instruction set, also for a NaN: they set its quiet bit.
#pragma once

#include <cstddef>

namespace leash {

struct HalfKernels {
  // REQUIRES of all four: both arguments hold n values and do not overlap. payload may be
  // unaligned.
  void (*decode_bf16)(float* out, const std::byte* payload, std::size_t n) noexcept;
  void (*decode_f16)(float* out, const std::byte* payload, std::size_t n) noexcept;

  // Both round to nearest even, and keep infinity. A finite value beyond the largest of the codec
  // becomes infinity in bf16 (that is beyond 3.39e38, close to the largest f32) and 65504 in f16.
  void (*encode_bf16)(std::byte* payload, const float* values, std::size_t n) noexcept;
  void (*encode_f16)(std::byte* payload, const float* values, std::size_t n) noexcept;
};

}  // namespace leash
