// The codecs of payloads, and what the server does with them: it checks and decodes gradients, and
// encodes parameters.
//
//   raw    the chunk's own dtype, little-endian
//   bf16   the upper half of an f32, rounded to nearest even; of a normal number, a relative error
//          up to 2^-8
//   f16    IEEE 754 binary16, rounded to nearest even; a finite value beyond 65504 becomes 65504.
//          A relative error up to 2^-11 from 2^-14 on, an absolute one up to 2^-25 below
//   int8   u32 block | f32 scale for every block values | i8 for every value     value = scale * i8
//   topk   u32 index, ascending, k times | f32 value, k times                    the others are 0
//
// All but raw carry f32 parameters only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/kernels/kernels.h"

namespace leash {

enum class Codec : std::uint8_t { kRaw, kBf16, kF16, kInt8, kTopk };

// How many values may share a scale of int8: a power of two from the first to the second.
inline constexpr std::uint32_t kMinInt8Block = 64;
inline constexpr std::uint32_t kMaxInt8Block = 65536;
bool is_int8_block(std::uint32_t block);

// A scale of int8 is 0, or lies between these two. The first is the smallest normal number; with
// the second scale * -128 is still finite, and a larger scale counts as infinite.
inline constexpr float kMinInt8Scale = 0x1p-126f;
inline constexpr float kMaxInt8Scale = 0x1.fffffep+120f;

// The sizes of payloads.
inline constexpr std::size_t kHalfNbytes = 2;                      // for each value, bf16 and f16
inline constexpr std::size_t kTopkNbytes = 8;                      // for each value that is sent
std::size_t int8_nbytes(std::size_t values, std::uint32_t block);  // REQUIRES: is_int8_block(block)

// The largest k of topk: with more than half of the values it would be larger than raw.
inline constexpr std::size_t max_topk(std::size_t values) { return values == 1 ? 1 : values / 2; }

// A payload that parse() has checked. It holds everything that decides how the payload is read
// later. If the sender shares the memory and changes it, the numbers change, but no read or write
// goes outside of any array.
struct Encoded {
  Codec codec = Codec::kRaw;
  const std::byte* data = nullptr;
  std::size_t nbytes = 0;
  std::size_t values = 0;   // of the chunk that it stands for
  std::uint32_t block = 0;  // int8: values that share a scale
  bool is_shared = false;   // whether its sender may change it at any time
};

// Checks the size and structure of a payload for a chunk of `values` numbers: of int8 the block; of
// topk k, and that the indices ascend and are below `values`. data may be unaligned. Throws
// std::invalid_argument, which says what was expected and what came.
Encoded parse(Codec codec, const std::byte* data, std::size_t nbytes, std::size_t values,
              std::size_t value_nbytes);

// The index, in the chunk, of the first value that is NaN or infinite; of int8 the first value of
// the block whose scale is, or is so large that scale * -128 could be. Where there is none, decode
// gives finite values only, unless the sender changes the payload in between. Whatever it changes,
// the index is below encoded.values. REQUIRES: encoded.codec is not kRaw.
std::optional<std::size_t> find_nonfinite(const Encoded& encoded);

// Writes the values [begin, begin + n) to out[0..n).
// REQUIRES: begin + n <= encoded.values; the codec is not kRaw.
void decode(const Encoded& encoded, std::size_t begin, std::size_t n, float* out,
            const Kernels& kernels) noexcept;

// Writes n values in bf16 or f16. out may be unaligned; no overlap.
// REQUIRES: codec is kBf16 or kF16; out holds 2 * n bytes.
void encode_half(Codec codec, const float* values, std::size_t n, std::byte* out,
                 const Kernels& kernels) noexcept;

}  // namespace leash
