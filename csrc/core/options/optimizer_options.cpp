#include "core/options/optimizer_options.h"

#include <cmath>

#include "core/base/require.h"

namespace leash {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::string_view kSgdStates[] = {"momentum"};
constexpr std::string_view kAdamStates[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
constexpr std::string_view kAdagradStates[] = {"sum"};

Names state_names_of(const SgdOptions& options) {
  return Names(kSgdStates).first(options.momentum != 0.0 ? 1 : 0);
}
Names state_names_of(const AdamOptions& options) {
  return Names(kAdamStates).first(options.amsgrad ? 3 : 2);
}
Names state_names_of(const AdagradOptions&) { return kAdagradStates; }
Names state_names_of(const SumOptions&) { return {}; }

}  // namespace

void validate(const SgdOptions& options) {
  require_non_negative("lr", options.lr);
  require_non_negative("momentum", options.momentum);
  require_non_negative("weight_decay", options.weight_decay);
  require(std::isfinite(options.dampening), "dampening", options.dampening, "a finite number");
  if (!options.nesterov) return;
  require(options.momentum > 0.0, "momentum", options.momentum, "more than 0 with nesterov");
  require(options.dampening == 0.0, "dampening", options.dampening, "0 with nesterov");
}

void validate(const AdamOptions& options) {
  require_non_negative("lr", options.lr);
  require_below_one("beta1", options.beta1);
  require_below_one("beta2", options.beta2);
  require_non_negative("eps", options.eps);
  require_non_negative("weight_decay", options.weight_decay);
}

void validate(const AdagradOptions& options) {
  require_non_negative("lr", options.lr);
  require_non_negative("lr_decay", options.lr_decay);
  require_non_negative("weight_decay", options.weight_decay);
  require_non_negative("initial_accumulator_value", options.initial_accumulator_value);
  require_non_negative("eps", options.eps);
}

void validate(const SumOptions& options) {
  require(options.lr >= 0.0 && options.lr <= 1.0, "lr", options.lr,
          "a number from 0 to 1 for sums");
}

void validate(const OptimizerOptions& options) {
  std::visit([](const auto& chosen) { validate(chosen); }, options);
}

double learning_rate(const OptimizerOptions& options) {
  return std::visit([](const auto& chosen) { return chosen.lr; }, options);
}

bool maximizes(const OptimizerOptions& options) {
  const auto of = [](const auto& chosen) {
    if constexpr (requires { chosen.maximize; }) {
      return chosen.maximize;
    } else {
      return false;  // a running average follows no gradient
    }
  };
  return std::visit(of, options);
}

void set_learning_rate(OptimizerOptions& options, double lr) {
  std::visit([lr](auto& chosen) { chosen.lr = lr; }, options);
}

Names state_names(const OptimizerOptions& options) {
  return std::visit([](const auto& chosen) { return state_names_of(chosen); }, options);
}

}  // namespace leash
