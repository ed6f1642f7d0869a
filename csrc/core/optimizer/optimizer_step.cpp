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

// The limits leave room for every intermediate result of kernels.h: with values below 2^50, g is
// below 2^61, its square below 2^122, and nothing else comes closer to the 2^128 of a float.
template <typename T>
bool is_within(T value, double most) {
  return std::abs(static_cast<double>(value)) <= most;
}

constexpr double kRateMost = 0x1p20;
constexpr double kFactorMost = 0x1p10;
constexpr double kEpsilonLeast = 0x1p-34;
constexpr double kCorrectionLeast = 0x1p-30;

template <typename T>
bool is_tame_step(const SgdStep<T>& step) {
  return is_within(step.lr, kRateMost) && is_within(step.weight_decay, kFactorMost) &&
         is_within(step.momentum, kFactorMost) && is_within(step.undampened, kFactorMost);
}

template <typename T>
bool is_tame_step(const AdamStep<T>& step) {
  return is_within(step.step_size, kRateMost) && is_within(step.keep, kRateMost) &&
         is_within(step.weight_decay, kFactorMost) && step.eps >= kEpsilonLeast &&
         step.bias_correction2_sqrt >= kCorrectionLeast;
}

template <typename T>
bool is_tame_step(const AdagradStep<T>& step) {
  return is_within(step.lr, kRateMost) && is_within(step.weight_decay, kFactorMost) &&
         step.eps >= kEpsilonLeast;
}

template <typename T>
bool is_tame_step(const RunningAverageStep<T>&) {
  return true;  // lr is between 0 and 1
}

}  // namespace

template <typename T>
bool is_tame(const OptimizerStep<T>& step) {
  return std::visit([](const auto& chosen) { return is_tame_step(chosen); }, step);
}

template bool is_tame(const OptimizerStep<float>&);
template bool is_tame(const OptimizerStep<double>&);

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
