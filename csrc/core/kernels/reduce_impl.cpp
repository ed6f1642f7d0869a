// Reductions: the search for a value that is not finite, and the weighted sum of gradients.
// Compiled once for each instruction set; see kernels_impl.h.

#include <cstdint>

#include "core/kernels/kernels_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T>
struct Bits;
template <>
struct Bits<float> {
  using Word = std::uint32_t;
  static constexpr Word kExponent = 0x7f80'0000;
};
template <>
struct Bits<double> {
  using Word = std::uint64_t;
  static constexpr Word kExponent = 0x7ff0'0000'0000'0000;
};

// NaN and infinity both have an exponent of ones. This compares integers, because a comparison of
// floats, which may trap, does not vectorise.
template <typename T>
bool nonfinite_at(const std::byte* payload, std::size_t i) noexcept {
  constexpr auto kExponent = Bits<T>::kExponent;
  return (load<typename Bits<T>::Word>(payload, i) & kExponent) == kExponent;
}

template <typename T>
bool any_nonfinite(const std::byte* payload, std::size_t begin, std::size_t end) noexcept {
  typename Bits<T>::Word found = 0;
  for (std::size_t i = begin; i < end; ++i) found |= nonfinite_at<T>(payload, i);
  return found != 0;
}

}  // namespace

// Tests whole blocks: a loop that may end at every value does not vectorise.
template <typename T>
std::size_t first_nonfinite(const std::byte* payload, std::size_t n) noexcept {
  constexpr std::size_t kBlock = 1024;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t end = n - begin < kBlock ? n : begin + kBlock;
    if (!any_nonfinite<T>(payload, begin, end)) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (nonfinite_at<T>(payload, i)) return i;
    }
  }
  return n;
}

template <typename T>
void accumulate(T* __restrict sum, const std::byte* __restrict payload, std::size_t n, T weight,
                bool first) noexcept {
  if (first) {
    for (std::size_t i = 0; i < n; ++i) sum[i] = weight * load<T>(payload, i);
  } else {
    for (std::size_t i = 0; i < n; ++i) sum[i] = sum[i] + weight * load<T>(payload, i);
  }
}

template std::size_t first_nonfinite<float>(const std::byte*, std::size_t) noexcept;
template std::size_t first_nonfinite<double>(const std::byte*, std::size_t) noexcept;
template void accumulate<float>(float*, const std::byte*, std::size_t, float, bool) noexcept;
template void accumulate<double>(double*, const std::byte*, std::size_t, double, bool) noexcept;

}  // namespace leash::LEASH_KERNELS
