// What the files of this folder share. Each is compiled once for each instruction set; see
// kernels_impl.h.
#pragma once

#include <cstddef>

#include "core/base/unaligned.h"
#include "core/kernels/optimizers/arguments.h"

namespace leash::LEASH_KERNELS {

// kernels.h gives the formula of each.
template <typename T>
void compensate(const CompensationRange<T>& range, const CompensationStep<T>& step) noexcept;
template <typename T>
void sgd(const UpdateRange<T>& range, const SgdStep<T>& step) noexcept;
template <typename T>
void adam(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept;
template <typename T>
void adagrad(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept;
template <typename T>
void running_average(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept;
template <typename T>
void limit_norm(T* row, std::size_t n, double max_norm) noexcept;

namespace {

inline float square_root(float value) noexcept { return __builtin_sqrtf(value); }
inline double square_root(double value) noexcept { return __builtin_sqrt(value); }

}  // namespace
}  // namespace leash::LEASH_KERNELS
