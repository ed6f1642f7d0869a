// What the files of this folder share. Each is compiled once for each instruction set; see
// kernels_impl.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/float_bits.h"
#include "core/base/unaligned.h"
#include "core/kernels/optimizers/arguments.h"

namespace leash::LEASH_KERNELS {

// kernels.h gives the formula of each.
template <typename T>
void compensate(const CompensationRange<T>& range, const CompensationStep<T>& step) noexcept;
template <typename T>
bool sgd(const UpdateRange<T>& range, const SgdStep<T>& step) noexcept;
template <typename T>
bool adam(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept;
template <typename T>
bool adagrad(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept;
template <typename T>
bool running_average(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept;
template <typename T>
void limit_norm(T* row, std::size_t n, double max_norm) noexcept;

namespace {

inline float square_root(float value) noexcept { return __builtin_sqrtf(value); }
inline double square_root(double value) noexcept { return __builtin_sqrt(value); }

// Bits of which the highest is set if the value is a NaN or an infinity: these alone have an
// exponent of ones, which one more carries to the place of the sign. So the bits of many values can
// be joined by `or`, which every instruction set has, and looked at once.
inline std::uint32_t overflow_of(float value) noexcept {
  return (bits_of(value) & kMagnitude) + 0x0080'0000u;
}
inline std::uint64_t overflow_of(double value) noexcept {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return (bits & 0x7fff'ffff'ffff'ffffu) + 0x0010'0000'0000'0000u;
}

template <typename T>
using OverflowBits = decltype(overflow_of(T{}));

inline bool is_finite(std::uint32_t overflow) noexcept { return (overflow >> 31) == 0; }
inline bool is_finite(std::uint64_t overflow) noexcept { return (overflow >> 63) == 0; }

}  // namespace
}  // namespace leash::LEASH_KERNELS
