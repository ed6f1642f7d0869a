// Compiled once for each instruction set; see kernels_impl.h.

#include <cstddef>
#include <cstdint>

#include "core/base/float_bits.h"
#include "core/base/unaligned.h"
#include "core/kernels/codecs/half.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace leash::LEASH_KERNELS {
namespace {

constexpr std::uint32_t kQuiet = 0x0040'0000;  // the bit of an f32 that makes a NaN a quiet one

// These functions compute every case and then choose one, because a loop with branches does not
// vectorise.

std::uint32_t quieted(std::uint32_t bits) noexcept {
  return (bits & kMagnitude) > kInfinity ? bits | kQuiet : bits;
}

float from_bf16(std::uint16_t half) noexcept {
  return float_of(quieted(static_cast<std::uint32_t>(half) << 16));
}

// A NaN is not rounded, since a carry could reach its sign. The function chooses between the terms
// of the sum rather than between two sums, because compilers would pack each of the two by itself.
std::uint16_t to_bf16(float value) noexcept {
  const std::uint32_t bits = bits_of(value);
  const bool nan = value != value;
  const std::uint32_t rounding = nan ? 0 : 0x7fff + ((bits >> 16) & 1);
  return static_cast<std::uint16_t>(((bits + rounding) | (nan ? kQuiet : 0)) >> 16);
}

// The exponent of f32 exceeds that of f16 by 112. A subnormal f16 is an integer times 2^-24, and
// that product is a normal f32.
float from_f16(std::uint16_t half) noexcept {
  const std::uint32_t magnitude = half & 0x7fffu;
  const std::uint32_t normal = (magnitude << 13) + (112u << 23);
  const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  std::uint32_t bits = magnitude < 0x0400 ? bits_of(subnormal) : normal;
  bits = magnitude >= 0x7c00 ? normal + (112u << 23) : bits;
  return float_of(quieted(bits) | static_cast<std::uint32_t>(half & 0x8000u) << 16);
}

// From 0.5 to 1, values of f32 are 2^-24 apart, as subnormal values of f16 are. Adding 0.5
// therefore rounds a value to a subnormal f16.
std::uint16_t to_f16(float value) noexcept {
  constexpr std::uint32_t kSmallestNormal = 0x3880'0000;  // 2^-14
  constexpr std::uint32_t kLargest = 0x477f'e000;         // 65504
  const std::uint32_t magnitude = bits_of(value) & kMagnitude;
  const std::uint32_t finite = magnitude < kLargest ? magnitude : kLargest;
  const std::uint32_t normal = (finite + 0xfff + ((finite >> 13) & 1) - (112u << 23)) >> 13;
  const std::uint32_t subnormal = bits_of(float_of(finite) + 0.5f) - bits_of(0.5f);
  std::uint32_t half = finite < kSmallestNormal ? subnormal : normal;
  half = magnitude >= kInfinity ? 0x7c00 : half;
  half = magnitude > kInfinity ? 0x7e00 | ((magnitude >> 13) & 0x1ff) : half;
  return static_cast<std::uint16_t>(half | ((bits_of(value) >> 16) & 0x8000));
}

void decode_bf16(float* __restrict out, const std::byte* __restrict payload,
                 std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = from_bf16(load<std::uint16_t>(payload, i));
}

void encode_bf16(std::byte* __restrict payload, const float* __restrict values,
                 std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) store(payload, i, to_bf16(values[i]));
}

// Processors have instructions that convert f16, and give the same bits as the functions above.
// These two functions convert whole vectors from the beginning, and return how many values that
// was. With eight values in a vector they are as fast as memory, so AVX-512 has no longer form of
// its own.
#if defined(__F16C__)

std::size_t decode_f16_vectors(float* out, const std::byte* payload, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto* from = reinterpret_cast<const __m128i*>(payload + 2 * i);
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(from)));
  }
  return i;
}

std::size_t encode_f16_vectors(std::byte* payload, const float* values, std::size_t n) noexcept {
  const __m256 largest = _mm256_set1_ps(65504.0f);
  const __m256 smallest = _mm256_set1_ps(-65504.0f);
  const __m256i twice_infinity = _mm256_set1_epi32(static_cast<std::int32_t>(2 * kInfinity));
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 value = _mm256_loadu_ps(values + i);
    // If either argument is a NaN, min and max return the second one.
    const __m256 limited = _mm256_max_ps(smallest, _mm256_min_ps(largest, value));
    const __m256i twice = _mm256_slli_epi32(_mm256_castps_si256(value), 1);  // without its sign
    const __m256 infinite = _mm256_castsi256_ps(_mm256_cmpeq_epi32(twice, twice_infinity));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(payload + 2 * i),
        _mm256_cvtps_ph(_mm256_blendv_ps(limited, value, infinite), _MM_FROUND_TO_NEAREST_INT));
  }
  return i;
}

#else

std::size_t decode_f16_vectors(float*, const std::byte*, std::size_t) noexcept { return 0; }
std::size_t encode_f16_vectors(std::byte*, const float*, std::size_t) noexcept { return 0; }

#endif

void decode_f16(float* __restrict out, const std::byte* __restrict payload,
                std::size_t n) noexcept {
  for (std::size_t i = decode_f16_vectors(out, payload, n); i < n; ++i) {
    out[i] = from_f16(load<std::uint16_t>(payload, i));
  }
}

void encode_f16(std::byte* __restrict payload, const float* __restrict values,
                std::size_t n) noexcept {
  for (std::size_t i = encode_f16_vectors(payload, values, n); i < n; ++i) {
    store(payload, i, to_f16(values[i]));
  }
}

}  // namespace

extern const HalfKernels kHalfTable;
const HalfKernels kHalfTable{decode_bf16, decode_f16, encode_bf16, encode_f16};

}  // namespace leash::LEASH_KERNELS
