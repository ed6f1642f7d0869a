// What a worker's optimizer has for parameter groups: options of their own for groups of slots.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/options/optimizer_options.h"

namespace leash {

struct GroupOptions {
  OptimizerOptions optimizer;
  // After each update every value is brought into this range.
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  // And then every row (ChunkSpec::row_lengths) is scaled down to this 2-norm if its own is larger.
  double max_norm = std::numeric_limits<double>::infinity();

  bool clamps() const { return std::isfinite(least) || std::isfinite(most); }
  bool limits_norm() const { return std::isfinite(max_norm); }
};

struct OptionsTable {
  std::vector<GroupOptions> groups;
  std::vector<std::uint32_t> group_of_slot;  // by the slot's number in the whole model
};

// Throws std::invalid_argument unless each group's options are valid and of the same optimizer as
// `base`, without a buffer that `base` lacks, and every slot's group is there.
void validate(const OptionsTable& table, const OptimizerOptions& base);

}  // namespace leash
