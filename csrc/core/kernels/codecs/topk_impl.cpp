// Compiled once for each instruction set; see kernels_impl.h.

#include <cstddef>
#include <cstdint>

#include "core/base/float_bits.h"
#include "core/base/unaligned.h"
#include "core/kernels/codecs/topk.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace leash::LEASH_KERNELS {
namespace {

// Values are tested in groups of this many. Few values are in the range, so that most groups are
// skipped after one test.
constexpr std::size_t kGroup = 32;

// Returns a bit for each value of a group, the lowest for the first one: whether low <= magnitude
// <= last.
#if defined(__AVX512F__)

std::uint32_t within(const float* values, std::uint32_t low, std::uint32_t last) noexcept {
  std::uint32_t found = 0;
  for (unsigned i = 0; i < kGroup; i += 16) {
    const __m512i bits = _mm512_loadu_si512(values + i);
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(kMagnitude));
    const __mmask16 enough = _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(low));
    found |= std::uint32_t{_mm512_mask_cmple_epi32_mask(enough, magnitude, _mm512_set1_epi32(last))}
             << i;
  }
  return found;
}

#elif defined(__AVX2__)

std::uint32_t within(const float* values, std::uint32_t low, std::uint32_t last) noexcept {
  const __m256i least = _mm256_set1_epi32(static_cast<std::int32_t>(low));
  const __m256i most = _mm256_set1_epi32(static_cast<std::int32_t>(last));
  std::uint32_t outside = 0;
  for (unsigned i = 0; i < kGroup; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(values + i));
    const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(kMagnitude));
    const __m256i wrong =
        _mm256_or_si256(_mm256_cmpgt_epi32(least, magnitude), _mm256_cmpgt_epi32(magnitude, most));
    const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(wrong));
    outside |= static_cast<std::uint32_t>(mask) << i;
  }
  return ~outside;
}

#else

bool is_within(float value, std::uint32_t low, std::uint32_t last) noexcept {
  const std::uint32_t magnitude = bits_of(value) & kMagnitude;
  return (magnitude >= low) & (magnitude <= last);
}

std::uint32_t within(const float* values, std::uint32_t low, std::uint32_t last) noexcept {
  std::uint32_t any = 0;
  for (std::size_t i = 0; i < kGroup; ++i) any |= is_within(values[i], low, last);
  if (any == 0) return 0;
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < kGroup; ++i) {
    found |= std::uint32_t{is_within(values[i], low, last)} << i;
  }
  return found;
}

#endif

// Calls use(i, magnitude) for each of n values whose magnitude is within the range, in order.
template <typename Use>
void for_each_within(const float* values, std::size_t n, std::uint32_t low, std::uint32_t last,
                     Use&& use) noexcept {
  const auto use_at = [&](std::size_t i) { use(i, bits_of(values[i]) & kMagnitude); };
  std::size_t begin = 0;
  for (; n - begin >= kGroup; begin += kGroup) {
    std::uint32_t found = within(values + begin, low, last);
    for (; found != 0; found &= found - 1) {
      use_at(begin + static_cast<unsigned>(__builtin_ctz(found)));
    }
  }
  for (; begin < n; ++begin) {
    const std::uint32_t magnitude = bits_of(values[begin]) & kMagnitude;
    if (magnitude >= low && magnitude <= last) use_at(begin);
  }
}

void add(float* __restrict residual, const float* __restrict values, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) residual[i] = residual[i] + values[i];
}

void count(const float* values, std::size_t n, const Digit& digit, std::uint32_t* counts) noexcept {
  const unsigned shift = digit.shift;
  const std::uint32_t mask = digit.mask;
  for_each_within(values, n, digit.low, digit.last,
                  [=](std::size_t, std::uint32_t magnitude) noexcept {
                    ++counts[(magnitude >> shift) & mask];
                  });
}

void take(float* residual, std::size_t n, std::uint32_t least, std::size_t ties, std::byte* indices,
          std::byte* values) noexcept {
  std::size_t place = 0;
  for_each_within(residual, n, least, kMagnitude, [&](std::size_t i, std::uint32_t magnitude) {
    if (magnitude == least) {
      if (ties == 0) return;
      --ties;
    }
    store(indices, place, static_cast<std::uint32_t>(i));
    store(values, place, residual[i]);
    residual[i] = 0.0f;
    ++place;
  });
}

}  // namespace

extern const TopkKernels kTopkTable;
const TopkKernels kTopkTable{add, count, take};

}  // namespace leash::LEASH_KERNELS
