// What a shard counts.
#pragma once

#include <cstdint>

namespace leash {

struct ShardStats {
  std::uint64_t applied = 0;  // pushes for which a clock ticked
  std::uint64_t updates = 0;  // of all chunks together
  std::uint64_t duplicates = 0;
  std::uint64_t gaps = 0;
  std::uint64_t nonfinite = 0;  // pushes with a NaN or an infinity
  std::uint64_t dropped = 0;    // pushes that were too stale; the three below leave them out
  std::uint64_t max_staleness = 0;
  std::uint64_t staleness_sum = 0;
  std::uint64_t staleness_count = 0;
  std::uint64_t max_lag = 0;  // over all answers that let a worker go on

  double mean_staleness() const {
    if (staleness_count == 0) return 0.0;
    return static_cast<double>(staleness_sum) / static_cast<double>(staleness_count);
  }
};

}  // namespace leash
