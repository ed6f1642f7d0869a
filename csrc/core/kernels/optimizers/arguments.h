// What the kernels of the optimizers take: the values that one call changes, and the numbers that
// describe one update.
//
// The numbers are an optimizer's options, rounded to the values' own type T as torch rounds them.
// Whatever depends on the count of updates was computed in double before it was rounded
// (optimizer/optimizer_step.h).
#pragma once

#include <cstddef>

namespace leash {

// The most buffers that any optimizer keeps beside the parameters (Adam with amsgrad does).
inline constexpr std::size_t kMaxStates = 3;

// A range of a chunk that one call updates. Every pointer leads to n values.
//
// reply may be null, or the same memory as gradient; nothing else overlaps. gradient and reply may
// be unaligned. Others may change the gradient meanwhile: each of its values is read once.
template <typename T>
struct UpdateRange {
  T* w;                       // the parameters
  T* state[kMaxStates];       // the optimizer's buffers, in the order of state_names(), then nulls
  const std::byte* gradient;  // T, unaligned
  std::byte* reply;           // receives the new w; unaligned
  std::size_t n;
  // Without a guard all are null. With one, the first receives what w was, and the others what each
  // of the buffers was.
  T* saved[1 + kMaxStates] = {};

  bool is_guarded() const { return saved[0] != nullptr; }
};

// A range of a gradient that a worker computed on older parameters than w. Every pointer leads to
// n values.
//
// mean_square is null except for adaptive compensation. gradient may be unaligned, and may be the
// memory of corrected; nothing else overlaps.
template <typename T>
struct CompensationRange {
  const T* w;       // the parameters now
  const T* backup;  // the parameters that the worker had
  T* mean_square;
  const std::byte* gradient;
  T* corrected;  // receives the gradient to apply
  std::size_t n;
};

template <typename T>
struct SgdStep {
  T lr, weight_decay, momentum;
  T undampened;  // 1 - dampening
  T sign;        // -1 to maximize, else 1
  bool nesterov;
  bool first;  // the momentum buffer holds nothing yet
};

template <typename T>
struct AdamStep {
  T step_size;  // lr / (1 - beta1^update)
  T keep;       // AdamW: 1 - lr * weight_decay, else 1
  T weight_decay;
  T beta2;
  T gain1, gain2;           // 1 - beta1, 1 - beta2
  T bias_correction2_sqrt;  // sqrt(1 - beta2^update)
  T eps, sign;
  bool amsgrad;
};

template <typename T>
struct AdagradStep {
  T lr;  // lr / (1 + (update - 1) * lr_decay)
  T weight_decay, eps, sign;
};

template <typename T>
struct RunningAverageStep {
  T keep;  // 1 - lr
  T gain;  // lr
};

template <typename T>
struct CompensationStep {
  T lambda;  // negative to maximize, since its gradient then points the other way
  T decay;
  T gain;  // 1 - decay
  T eps;
};

}  // namespace leash
