// Encodes a worker's gradient in int8 or topk. (For bf16 and f16: encode_half() in codec.h.)
//
// Both encode e = gradient + residual, and set the residual to the part of e that the payload does
// not hold. That part is sent later, so nothing is lost: after any number of steps, the sum of what
// was decoded plus the last residual is the sum of the gradients, up to rounding. (Error feedback:
// Karimireddy et al. 2019, arXiv:1901.09847.) Each chunk of each worker has a residual of its own,
// which begins with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codecs/codec.h"
#include "core/kernels/kernels.h"

namespace leash {

// Each block has scale = max|e| / 127. Each value is rounded to one of the two nearest multiples of
// the scale, at random such that its mean is e (QSGD: Alistarh et al. 2017, arXiv:1610.02132,
// section 3.1). So its error is below the scale. If no other payload has the same seed, the error's
// mean is at most 2^-16 of the scale. Equal arguments give equal payloads.
//
// A block with a NaN, an infinity or a value beyond 3.37e38 gets NaN as its scale, and its residual
// becomes 0. A block of zeros gets scale 0. So does one whose values are all below 1.5e-36, which
// stay in the residual.
//
// Returns int8_nbytes(n, block), the bytes written to out, which may be unaligned.
// REQUIRES: is_int8_block(block); nothing overlaps.
std::size_t encode_int8(const float* gradient, float* residual, std::size_t n, std::uint32_t block,
                        std::uint64_t seed, std::byte* out, const Kernels& kernels) noexcept;

// Sends the k values with the largest |e| as they are; of equal ones, the first. What is left out
// is bounded by |e - topk(e)|^2 <= (1 - k/n) |e|^2 (Stich et al. 2018, arXiv:1809.07599,
// definition 2.1).
//
// A NaN counts as larger than infinity, so that it is sent and the server sees it. If there are
// more than k NaNs and infinities, the residual of those that are left out becomes 0.
//
// Returns kTopkNbytes * k, the bytes written to out, which may be unaligned.
// REQUIRES: k <= max_topk(n); n <= 2^32; nothing overlaps.
std::size_t encode_topk(const float* gradient, float* residual, std::size_t n, std::size_t k,
                        std::byte* out, const Kernels& kernels) noexcept;

}  // namespace leash
