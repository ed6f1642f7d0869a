// How a worker writes a gradient in int8 or topk. (bf16 and f16: encode_half in codec.h.)
//
// Both send e = gradient + residual, and keep in the residual what the payload does not hold of e.
// So nothing is lost, only late: over any number of steps, the sum of what was decoded and the last
// residual is the sum of the gradients, but for rounding. (Error feedback: Karimireddy et al. 2019,
// arXiv:1901.09847.) A residual belongs to one chunk of one worker, and begins with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codecs/codec.h"
#include "core/kernels/kernels.h"

namespace leash {

// scale = max|e| / 127 for each block. Each value becomes one of its two neighbours among the
// multiples of the scale, at random such that the mean is e (QSGD: Alistarh et al. 2017,
// arXiv:1610.02132, section 3.1). So its error is below the scale, and a payload whose seed differs
// from all others is unbiased, but for 2^-16 of the scale. Equal arguments give equal payloads.
//
// A block with a NaN or an infinity, or beyond 3.37e38, has NaN as its scale, and its residual
// becomes 0. A block of zeros has scale 0, and so has one below 1.5e-36, which waits in the
// residual.
//
// Returns int8_nbytes(n, block), the bytes written to out, which may be unaligned.
// REQUIRES: is_int8_block(block); nothing overlaps.
std::size_t encode_int8(const float* gradient, float* residual, std::size_t n, std::uint32_t block,
                        std::uint64_t seed, std::byte* out, const Kernels& kernels) noexcept;

// The k largest |e| as they are; of equal ones the first. What is left out is bounded by
// |e - topk(e)|^2 <= (1 - k/n) |e|^2 (Stich et al. 2018, arXiv:1809.07599, definition 2.1).
//
// A NaN counts as larger than infinity, so it is sent, and seen. Where there are more than k of the
// two, the residual of those left out becomes 0.
//
// Returns kTopkNbytes * k, the bytes written to out, which may be unaligned.
// REQUIRES: k <= max_topk(n); n <= 2^32; nothing overlaps.
std::size_t encode_topk(const float* gradient, float* residual, std::size_t n, std::size_t k,
                        std::byte* out, const Kernels& kernels) noexcept;

}  // namespace leash
