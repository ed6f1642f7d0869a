#include "core/options/staleness.h"

#include <algorithm>
#include <cmath>

#include "core/base/require.h"

namespace leash {

double StalenessRate::factor(std::uint64_t staleness) const {
  const auto updates = static_cast<double>(staleness);
  switch (decay) {
    case StalenessDecay::kInverse:
      return 1.0 / std::max(1.0, updates);
    case StalenessDecay::kPolynomial:
      return std::pow(1.0 + updates, -power);
    case StalenessDecay::kNone:
      break;
  }
  return 1.0;
}

void validate(const StalenessRate& rate) { require_non_negative("power", rate.power); }

void validate(const DelayCompensation& compensation) {
  require_non_negative("strength", compensation.lambda);
  require_below_one("decay", compensation.decay);
}

}  // namespace leash
