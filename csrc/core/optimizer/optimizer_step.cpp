#include "core/optimizer/optimizer_step.h"

#include <cmath>

namespace leash {
namespace {

template <typename T>
SgdStep<T> make_step(const SgdOptions& options, double lr, double, bool fresh) {
  return {.lr = static_cast<T>(lr),
          .weight_decay = static_cast<T>(options.weight_decay),
          .momentum = static_cast<T>(options.momentum),
          .undampened = static_cast<T>(1.0 - options.dampening),
          .sign = static_cast<T>(options.maximize ? -1 : 1),
          .nesterov = options.nesterov,
          .first = fresh};
}

template <typename T>
AdamStep<T> make_step(const AdamOptions& options, double lr, double update, bool) {
  const double correction1 = 1.0 - std::pow(options.beta1, update);
  const double correction2 = 1.0 - std::pow(options.beta2, update);
  return {.step_size = static_cast<T>(lr / correction1),
          .keep = static_cast<T>(options.decoupled ? 1.0 - lr * options.weight_decay : 1.0),
          .weight_decay = static_cast<T>(options.decoupled ? 0.0 : options.weight_decay),
          .beta2 = static_cast<T>(options.beta2),
          .gain1 = static_cast<T>(1.0 - options.beta1),
          .gain2 = static_cast<T>(1.0 - options.beta2),
          .bias_correction2_sqrt = static_cast<T>(std::sqrt(correction2)),
          .eps = static_cast<T>(options.eps),
          .sign = static_cast<T>(options.maximize ? -1 : 1),
          .amsgrad = options.amsgrad};
}

template <typename T>
AdagradStep<T> make_step(const AdagradOptions& options, double lr, double update, bool) {
  return {.lr = static_cast<T>(lr / (1.0 + (update - 1.0) * options.lr_decay)),
          .weight_decay = static_cast<T>(options.weight_decay),
          .eps = static_cast<T>(options.eps),
          .sign = static_cast<T>(options.maximize ? -1 : 1)};
}

template <typename T>
RunningAverageStep<T> make_step(const SumOptions&, double lr, double, bool) {
  return {.keep = static_cast<T>(1.0 - lr), .gain = static_cast<T>(lr)};
}

}  // namespace

template <typename T>
CompensationStep<T> compensation_step_of(const DelayCompensation& compensation, bool maximize) {
  return {.lambda = static_cast<T>(maximize ? -compensation.lambda : compensation.lambda),
          .decay = static_cast<T>(compensation.decay),
          .gain = static_cast<T>(1.0 - compensation.decay),
          .eps = static_cast<T>(kCompensationEpsilon)};
}

template CompensationStep<float> compensation_step_of(const DelayCompensation&, bool);
template CompensationStep<double> compensation_step_of(const DelayCompensation&, bool);

template <typename T>
OptimizerStep<T> step_of(const OptimizerOptions& options, double lr, std::uint64_t update,
                         bool fresh) {
  return std::visit(
      [&](const auto& chosen) -> OptimizerStep<T> {
        return make_step<T>(chosen, lr, static_cast<double>(update), fresh);
      },
      options);
}

template OptimizerStep<float> step_of(const OptimizerOptions&, double, std::uint64_t, bool);
template OptimizerStep<double> step_of(const OptimizerOptions&, double, std::uint64_t, bool);

}  // namespace leash
