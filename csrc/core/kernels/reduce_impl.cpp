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
  static constexpr Word kMagnitude = 0x7fff'ffff;
  static constexpr Word kTame = (127 + 50) << 23;  // the bits of 2^50
  static constexpr Word kTwo = 0x4000'0000;        // those of 2, and one of all beyond it
};
template <>
struct Bits<double> {
  using Word = std::uint64_t;
  static constexpr Word kExponent = 0x7ff0'0000'0000'0000;
  static constexpr Word kMagnitude = 0x7fff'ffff'ffff'ffff;
  static constexpr Word kTame = Word{1023 + 300} << 52;  // the bits of 2^300
  static constexpr Word kTwo = 0x4000'0000'0000'0000;    // those of 2, and one of all beyond it
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

template <typename T>
typename Bits<T>::Word larger_magnitude(typename Bits<T>::Word largest, const std::byte* payload,
                                        std::size_t i) noexcept {
  const auto magnitude = load<typename Bits<T>::Word>(payload, i) & Bits<T>::kMagnitude;
  return magnitude > largest ? magnitude : largest;
}

}  // namespace

// Without its sign, a number of larger magnitude has larger bits; a NaN and an infinity have larger
// ones than any number. Gradient and parameters go through one loop, since it runs for every
// update.
template <typename T>
bool is_tame(const UpdateRange<T>& range) noexcept {
  typename Bits<T>::Word largest = 0;
  const std::byte* const gradient = range.gradient;
  const auto* const w = reinterpret_cast<const std::byte*>(range.w);
  const std::size_t n = range.n;
#pragma GCC unroll 4
  for (std::size_t i = 0; i < n; ++i) {
    largest = larger_magnitude<T>(largest, gradient, i);
    largest = larger_magnitude<T>(largest, w, i);
  }
  for (std::size_t k = 0; k < kMaxStates && range.state[k] != nullptr; ++k) {
    const auto* const state = reinterpret_cast<const std::byte*>(range.state[k]);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < n; ++i) largest = larger_magnitude<T>(largest, state, i);
  }
  return largest < Bits<T>::kTame;
}

// Only numbers from 2 on, infinities and NaNs have the bit kTwo, so the bits of all numbers
// together tell.
template <typename T>
bool copy_small(const UpdateRange<T>& range, T* copy) noexcept {
  typename Bits<T>::Word all = 0;
  const std::byte* const gradient = range.gradient;
  const auto* const w = reinterpret_cast<const std::byte*>(range.w);
  auto* const out = reinterpret_cast<std::byte*>(copy);
  const std::size_t n = range.n;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    const auto bits = load<typename Bits<T>::Word>(gradient, i);
    store(out, i, bits);
    all |= bits | load<typename Bits<T>::Word>(w, i);
  }
  for (std::size_t k = 0; k < kMaxStates && range.state[k] != nullptr; ++k) {
    const auto* const state = reinterpret_cast<const std::byte*>(range.state[k]);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < n; ++i) all |= load<typename Bits<T>::Word>(state, i);
  }
  return (all & Bits<T>::kTwo) == 0;
}

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
template bool is_tame<float>(const UpdateRange<float>&) noexcept;
template bool is_tame<double>(const UpdateRange<double>&) noexcept;
template bool copy_small<float>(const UpdateRange<float>&, float*) noexcept;
template bool copy_small<double>(const UpdateRange<double>&, double*) noexcept;
template void accumulate<float>(float*, const std::byte*, std::size_t, float, bool) noexcept;
template void accumulate<double>(double*, const std::byte*, std::size_t, double, bool) noexcept;

}  // namespace leash::LEASH_KERNELS
