// What the kernels need to know of one update: the options, rounded to the numbers' own type T as
// torch rounds them. What depends on the count of updates is computed in double before that.
#pragma once

#include <cstdint>
#include <variant>

#include "core/optimizer/optimizer_options.h"
#include "core/optimizer/staleness.h"

namespace leash {

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
struct DelayStep {
  T lambda;  // negative to maximize: its correction is of the gradient that is followed downwards
  T decay, gain, eps;  // gain: 1 - decay
};

template <typename T>
struct SumStep {
  T keep;  // 1 - lr
  T gain;  // lr
};

template <typename T>
using OptimizerStep = std::variant<SgdStep<T>, AdamStep<T>, AdagradStep<T>, SumStep<T>>;

// For the update with this number, from 1, with this learning rate instead of the options'.
// fresh: the optimizer's buffers hold nothing yet.
template <typename T>
OptimizerStep<T> step_of(const OptimizerOptions& options, double lr, std::uint64_t update,
                         bool fresh);

template <typename T>
DelayStep<T> delay_step_of(const DelayCompensation& compensation, bool maximize);

}  // namespace leash
