// What softens the update of a worker that computed on old parameters: a lower learning rate, or a
// corrected gradient.
#pragma once

#include <cstdint>

namespace leash {

enum class StalenessDecay : std::uint8_t {
  kNone,
  kInverse,    // 1 / max(1, staleness): Zhang et al. 2016, arXiv:1511.05950
  kPolynomial  // (1 + staleness)^-power: Xie et al. 2019, arXiv:1903.03934
};

// The factor of an update's learning rate.
struct StalenessRate {
  StalenessDecay decay = StalenessDecay::kNone;
  double power = 0.5;

  double factor(std::uint64_t staleness) const;
};

enum class CompensationKind : std::uint8_t { kNone, kConstant, kAdaptive };

// DC-ASGD (Zheng et al. 2017, arXiv:1609.08326, algorithm 2): a gradient g at the parameters that
// its worker had is corrected, to first order, for what the others have changed since. The square
// of g stands for the diagonal of the Hessian:
//
//   g + lambda * g * g * (w - what the worker had)
//
// adaptive divides lambda by sqrt(mean_square + kCompensationEpsilon), element by element, where
// mean_square = decay * mean_square + (1 - decay) * g * g begins at 0.
struct DelayCompensation {
  CompensationKind kind = CompensationKind::kNone;
  double lambda = 0.04;
  double decay = 0.95;

  bool is_on() const { return kind != CompensationKind::kNone; }
};

inline constexpr double kCompensationEpsilon = 1e-7;

// Throw std::invalid_argument, naming the value.
void validate(const StalenessRate& rate);
void validate(const DelayCompensation& compensation);

}  // namespace leash
