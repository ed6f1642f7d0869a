#include "core/admission/rule.h"

#include <stdexcept>
#include <string>

namespace leash {
namespace {

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

}  // namespace

void validate(const Rule& rule) {
  if (rule.gather == Gather::kStep) {
    require(rule.bound == std::optional<std::uint64_t>(0),
            "gather 'step': expected bound 0, since a mean waits for every worker");
  }
  if (rule.gather == Gather::kRound) {
    require(!rule.bound, "gather 'round': expected no bound, since a round is what is waited for");
  }
  require(rule.gather == Gather::kEach || !rule.staleness_limit,
          "staleness_limit: expected gather 'each'");
  require(rule.gather == Gather::kRound || rule.backup_workers == 0,
          "backup_workers: expected 0, or gather 'round'");
  if (rule.unit == Unit::kVersions) {
    require(rule.bound && !rule.bound_max && rule.gather == Gather::kEach,
            "unit 'versions': expected a bound, no bound_max, and gather 'each'");
  }
  if (rule.bound_max) {
    require(rule.bound && rule.gather == Gather::kEach && *rule.bound_max >= *rule.bound,
            "bound_max: expected gather 'each', and at least the bound");
    if (*rule.bound_max - *rule.bound > kMaxDynamicSteps) {
      throw std::invalid_argument("bound_max: expected at most " +
                                  std::to_string(kMaxDynamicSteps) + " above the bound");
    }
  }
}

}  // namespace leash
