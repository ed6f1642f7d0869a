#include "core/admission/rule.h"

#include <stdexcept>
#include <string>

namespace leash {
namespace {

void require_consistent(bool holds, const char* expected) {
  if (!holds) throw std::invalid_argument(expected);
}

}  // namespace

void validate(const Rule& rule) {
  if (rule.gather == Gather::kStep) {
    require_consistent(rule.bound == std::optional<std::uint64_t>(0),
                       "gather 'step': expected bound 0, since a mean waits for every worker");
  }
  if (rule.gather == Gather::kRound) {
    require_consistent(!rule.bound,
                       "gather 'round': expected no bound, since a round is what is waited for");
  }
  require_consistent(rule.gather == Gather::kEach || !rule.staleness_limit,
                     "staleness_limit: expected gather 'each'");
  require_consistent(rule.gather == Gather::kRound || rule.backup_workers == 0,
                     "backup_workers: expected 0, or gather 'round'");
  if (rule.unit == BoundUnit::kVersions) {
    require_consistent(rule.bound && !rule.bound_max && rule.gather == Gather::kEach,
                       "unit 'versions': expected a bound, no bound_max, and gather 'each'");
  }
  if (rule.bound_max) {
    require_consistent(rule.bound && rule.gather == Gather::kEach && *rule.bound_max >= *rule.bound,
                       "bound_max: expected gather 'each', and at least the bound");
    if (*rule.bound_max - *rule.bound > kMaxDynamicSteps) {
      throw std::invalid_argument("bound_max: expected at most " +
                                  std::to_string(kMaxDynamicSteps) + " above the bound");
    }
  }
}

}  // namespace leash
