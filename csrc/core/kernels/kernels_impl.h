// What the files that are compiled once for each instruction set share. Each is compiled with
// LEASH_KERNELS as the name of its namespace.
//
// No inline function of the standard library is called in them: if one were emitted out of line,
// the linker could give that copy, with its instructions, to code that must run on every CPU.
#pragma once

#include <cstddef>

#include "core/base/unaligned.h"
#include "core/kernels/kernels.h"

namespace leash::LEASH_KERNELS {

template <typename T>
std::size_t first_nonfinite(const std::byte* payload, std::size_t n) noexcept;
template <typename T>
void accumulate(T* sum, const std::byte* payload, std::size_t n, T weight, bool first) noexcept;
template <typename T>
void compensate(const Delayed<T>& delayed, const DelayStep<T>& step) noexcept;
template <typename T>
void sgd(const Stretch<T>& stretch, const SgdStep<T>& step) noexcept;
template <typename T>
void adam(const Stretch<T>& stretch, const AdamStep<T>& step) noexcept;
template <typename T>
void adagrad(const Stretch<T>& stretch, const AdagradStep<T>& step) noexcept;
template <typename T>
void sum(const Stretch<T>& stretch, const SumStep<T>& step) noexcept;

namespace {

inline float square_root(float value) noexcept { return __builtin_sqrtf(value); }
inline double square_root(double value) noexcept { return __builtin_sqrt(value); }

}  // namespace
}  // namespace leash::LEASH_KERNELS
