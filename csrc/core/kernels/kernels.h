// The loops over numbers, compiled once for each instruction set.
//
// They touch no Python state, never throw, allocate nothing, and may run on any thread. Every
// instruction set gives the same bits: all arithmetic is in T, in the order written here, without
// fused multiply-add.
#pragma once

#include <cstddef>

#include "core/kernels/codecs/half.h"
#include "core/kernels/codecs/int8.h"
#include "core/kernels/codecs/topk.h"
#include "core/kernels/cpu.h"
#include "core/kernels/optimizers/arguments.h"

namespace leash {

// The part of a chunk that an optimizer's kernel updates, n values everywhere.
//
// reply may be null, or the same memory as gradient; no other overlap. gradient and reply may be
// unaligned.
template <typename T>
struct Stretch {
  T* w;
  T* state[kMaxStates];  // in the order of state_names(); the others are null
  const std::byte* gradient;
  std::byte* reply;  // gets the new w
  std::size_t n;
};

// A part of a gradient that was computed on older parameters than w, n values everywhere.
//
// mean_square is null but for adaptive compensation. gradient may be unaligned, and may be the
// memory of corrected; no other overlap.
template <typename T>
struct Delayed {
  const T* w;
  const T* backup;  // what the worker had
  T* mean_square;
  const std::byte* gradient;
  T* corrected;
  std::size_t n;
};

template <typename T>
struct KernelsFor {
  // The index of the first NaN or infinity among n values; n if there is none.
  // payload may be unaligned.
  std::size_t (*first_nonfinite)(const std::byte* payload, std::size_t n) noexcept;

  // sum[i] = weight * payload[i] if first, else sum[i] += weight * payload[i].
  // REQUIRES: both hold n values and do not overlap. payload may be unaligned.
  void (*accumulate)(T* sum, const std::byte* payload, std::size_t n, T weight,
                     bool first) noexcept;

  // Delay compensation, as staleness.h has it, before a step of SGD that takes `corrected` as its
  // gradient; with lambda for the strength where there is no mean_square:
  //
  //   mean_square[i] = decay * mean_square[i] + gain * gradient[i] * gradient[i]
  //   strength = lambda / sqrt(mean_square[i] + eps)
  //   corrected[i] = gradient[i] + strength * (w[i] - backup[i]) * gradient[i] * gradient[i]
  void (*compensate)(const Delayed<T>& delayed, const DelayStep<T>& step) noexcept;

  // One step of torch.optim's optimizers, in one pass over memory. In the first three g begins as
  // sign * gradient[i] + weight_decay * w[i], and the last act is reply[i] = w[i].

  // SGD; with momentum = state[0], if that is not null:
  //
  //   momentum[i] = first ? g : step.momentum * momentum[i] + undampened * g
  //   g = nesterov ? g + step.momentum * momentum[i] : momentum[i]
  //   w[i] = w[i] - lr * g
  void (*sgd)(const Stretch<T>& stretch, const SgdStep<T>& step) noexcept;

  // Adam; with m, v = state[0], state[1], and with amsgrad the largest v so far in state[2]:
  //
  //   m[i] = m[i] + gain1 * (g - m[i])
  //   v[i] = beta2 * v[i] + gain2 * g * g
  //   largest[i] = max(largest[i], v[i])
  //   w[i] = keep * w[i] - step_size * m[i] / (sqrt(v[i] or largest[i]) / bias_correction2_sqrt +
  //   eps)
  void (*adam)(const Stretch<T>& stretch, const AdamStep<T>& step) noexcept;

  // Adagrad; with sum = state[0]:
  //
  //   sum[i] = sum[i] + g * g
  //   w[i] = w[i] - lr * g / (sqrt(sum[i]) + eps)
  void (*adagrad)(const Stretch<T>& stretch, const AdagradStep<T>& step) noexcept;

  // w[i] = keep * w[i] + gain * gradient[i]; with keep = 0 the old w[i] is not read. No sign, no
  // decay; the last act is as above.
  void (*sum)(const Stretch<T>& stretch, const SumStep<T>& step) noexcept;
};

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

// Calls the kernel that this step is for. REQUIRES: stretch has the states of its optimizer.
template <typename T>
void advance(const KernelsFor<T>& kernels, const OptimizerStep<T>& step, const Stretch<T>& stretch);

// REQUIRES: isa is one of instruction_sets().
const Kernels& kernels_for(InstructionSet isa);

}  // namespace leash
