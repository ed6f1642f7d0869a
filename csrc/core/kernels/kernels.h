// The loops over numbers, which are compiled once for each instruction set, and the tables that
// lead to them.
//
// A kernel touches no Python state, never throws, allocates nothing, and may run on any thread.
// Every instruction set gives the same bits: all arithmetic is done in T unless a formula says
// otherwise, in the order that the formulas have, and without fused multiply-add.
#pragma once

#include <cstddef>
#include <variant>

#include "core/kernels/codecs/half.h"
#include "core/kernels/codecs/int8.h"
#include "core/kernels/codecs/topk.h"
#include "core/kernels/cpu.h"
#include "core/kernels/optimizers/arguments.h"

namespace leash {

// The numbers of one update; which of them it holds says which optimizer makes the update.
template <typename T>
using OptimizerStep = std::variant<SgdStep<T>, AdamStep<T>, AdagradStep<T>, RunningAverageStep<T>>;

template <typename T>
struct KernelsFor {
  // Returns the index of the first NaN or infinity among n values, or n if there is none.
  // payload may be unaligned.
  std::size_t (*first_nonfinite)(const std::byte* payload, std::size_t n) noexcept;

  // sum[i] = weight * payload[i] if first, else sum[i] += weight * payload[i].
  // REQUIRES: both hold n values and do not overlap. payload may be unaligned.
  void (*accumulate)(T* sum, const std::byte* payload, std::size_t n, T weight,
                     bool first) noexcept;

  // Compensates the delay of a gradient as options/staleness.h describes; the SGD step that
  // follows takes `corrected` as its gradient. Without mean_square the strength is lambda:
  //
  //   mean_square[i] = decay * mean_square[i] + gain * gradient[i] * gradient[i]
  //   strength = lambda / sqrt(mean_square[i] + eps)
  //   corrected[i] = gradient[i] + strength * (w[i] - backup[i]) * gradient[i] * gradient[i]
  void (*compensate)(const CompensationRange<T>& range, const CompensationStep<T>& step) noexcept;

  // The next three make one step of torch.optim's optimizers in one pass over memory. Each begins
  // with g = sign * gradient[i] + weight_decay * w[i], and ends with reply[i] = w[i]. With a guard
  // it saves what w and the buffers were, and returns whether all that took their place is finite.

  // SGD. With momentum, momentum = state[0]; without, state[0] is null and the first two lines are
  // left out:
  //
  //   momentum[i] = first ? g : step.momentum * momentum[i] + undampened * g
  //   g = nesterov ? g + step.momentum * momentum[i] : momentum[i]
  //   w[i] = w[i] - lr * g
  bool (*sgd)(const UpdateRange<T>& range, const SgdStep<T>& step) noexcept;

  // Adam, with m = state[0], v = state[1] and, with amsgrad, largest = state[2]. The last line
  // takes `largest` in place of v if there is one:
  //
  //   m[i] = m[i] + gain1 * (g - m[i])
  //   v[i] = beta2 * v[i] + gain2 * g * g
  //   largest[i] = max(largest[i], v[i])
  //   w[i] = keep * w[i] - step_size * m[i] / (sqrt(v[i]) / bias_correction2_sqrt + eps)
  bool (*adam)(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept;

  // Adagrad, with sum = state[0]:
  //
  //   sum[i] = sum[i] + g * g
  //   w[i] = w[i] - lr * g / (sqrt(sum[i]) + eps)
  bool (*adagrad)(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept;

  // The running average of what is pushed: w[i] = keep * w[i] + gain * gradient[i], and then
  // reply[i] = w[i]. With keep = 0 the new w[i] does not depend on the old one. A guard: likewise.
  bool (*running_average)(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept;

  // Limits the 2-norm of a row of n values as torch.renorm(p=2, dim=0) does:
  //
  //   norm = sqrt(sum of row[i] * row[i]), in double, and rounded to T for the comparison
  //   row[i] = row[i] * (max_norm / (norm + 1e-7)) if norm > max_norm
  //
  // Finite values have a finite norm, even if a square overflows. A NaN leaves the row as it is; an
  // infinity becomes a NaN, and all else in the row 0.
  // REQUIRES: max_norm is finite and at least 0.
  void (*limit_norm)(T* row, std::size_t n, double max_norm) noexcept;
};

// The kernels of one instruction set.
struct Kernels {
  KernelsFor<float> f32;
  KernelsFor<double> f64;
  const HalfKernels& half;
  const Int8Kernels& int8;
  const TopkKernels& topk;

  template <typename T>
  const KernelsFor<T>& of() const;
};

template <>
inline const KernelsFor<float>& Kernels::of() const {
  return f32;
}
template <>
inline const KernelsFor<double>& Kernels::of() const {
  return f64;
}

// Calls the kernel of the optimizer that `step` is for, and returns what that does.
// REQUIRES: the range has the buffers of that optimizer; with a guard, those of this step alone.
template <typename T>
bool apply_step(const KernelsFor<T>& kernels, const OptimizerStep<T>& step,
                const UpdateRange<T>& range);

// REQUIRES: isa is one of instruction_sets().
const Kernels& kernels_for(InstructionSet isa);

}  // namespace leash
