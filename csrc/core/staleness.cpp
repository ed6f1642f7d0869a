#include "core/staleness.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace leash {
namespace {

void require(bool fits, const char* name, double value, const char* expected) {
  if (fits) return;
  std::ostringstream message;
  message << name << ": expected " << expected << ", got " << value;
  throw std::invalid_argument(message.str());
}

void require_non_negative(const char* name, double value) {
  require(std::isfinite(value) && value >= 0.0, name, value, "a finite number of at least 0");
}

}  // namespace

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
  require(compensation.decay >= 0.0 && compensation.decay < 1.0, "decay", compensation.decay,
          "a number from 0 to below 1");
}

}  // namespace leash
