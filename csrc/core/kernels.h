// The loops over numbers, compiled once for each instruction set.
//
// They touch no Python state, never throw, allocate nothing, and may run on any thread. Every
// instruction set gives the same bits: all arithmetic is in T, in the order written here, without
// fused multiply-add.
#pragma once

#include <cstddef>

#include "core/cpu.h"
#include "core/half_kernels.h"
#include "core/int8_kernels.h"
#include "core/sgd_options.h"
#include "core/topk_kernels.h"

namespace leash {

template <typename T>
struct KernelsFor {
  // The index of the first NaN or infinity among n values; n if there is none.
  // payload may be unaligned.
  std::size_t (*first_nonfinite)(const std::byte* payload, std::size_t n) noexcept;

  // sum[i] = weight * payload[i] if first, else sum[i] += weight * payload[i].
  // REQUIRES: both hold n values and do not overlap. payload may be unaligned.
  void (*accumulate)(T* sum, const std::byte* payload, std::size_t n, T weight,
                     bool first) noexcept;

  // One step of torch.optim.SGD, in one pass over memory:
  //
  //   g = gradient[i] + weight_decay * w[i]
  //   if momentum != 0:
  //     momentum[i] = first_update ? g : options.momentum * momentum[i] + (1 - dampening) * g
  //     g = nesterov ? g + options.momentum * momentum[i] : momentum[i]
  //   reply[i] = w[i] = w[i] - lr * g
  //
  // The options are rounded to T first, as torch does.
  // REQUIRES: all hold n values. momentum is null exactly if options.momentum is 0. reply may be
  // null, or the same memory as gradient; no other overlap. gradient and reply may be unaligned.
  void (*sgd)(T* w, T* momentum, const std::byte* gradient, std::byte* reply, std::size_t n,
              const SgdOptions& options, bool first_update) noexcept;
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

// REQUIRES: isa is one of instruction_sets().
const Kernels& kernels_for(InstructionSet isa);

}  // namespace leash
