#include "core/options/options_table.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace leash {
namespace {

void validate_group(const GroupOptions& group, const OptimizerOptions& base) {
  validate(group.optimizer);
  if (group.optimizer.index() != base.index()) {
    throw std::invalid_argument("groups: expected options of the shard's own optimizer");
  }
  const auto kept = state_names(base);
  for (const std::string_view name : state_names(group.optimizer)) {
    if (std::ranges::find(kept, name) != kept.end()) continue;
    throw std::invalid_argument("groups: the optimizer was started without " + std::string(name));
  }
  if (!(group.least <= group.most)) {  // also if one is NaN
    throw std::invalid_argument("clamp: expected a range, got " + std::to_string(group.least) +
                                " to " + std::to_string(group.most));
  }
  if (!(group.max_norm >= 0.0)) {
    throw std::invalid_argument("max_norm: expected a number of at least 0, got " +
                                std::to_string(group.max_norm));
  }
}

}  // namespace

void validate(const OptionsTable& table, const OptimizerOptions& base) {
  for (const GroupOptions& group : table.groups) validate_group(group, base);
  const auto groups = table.groups.size();
  if (std::ranges::any_of(table.group_of_slot, [&](std::uint32_t g) { return g >= groups; })) {
    throw std::invalid_argument("group_of_slot: expected groups below " + std::to_string(groups));
  }
}

}  // namespace leash
