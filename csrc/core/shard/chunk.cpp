#include "core/shard/chunk.h"

#include <stdexcept>
#include <string>

namespace leash {

void validate(const ChunkSpec& spec) {
  // Far above any message, and so low that no sum of sizes overflows.
  constexpr std::size_t kMost = std::size_t{1} << 32;
  if (spec.values <= kMost) return;
  throw std::invalid_argument("values: expected at most " + std::to_string(kMost) + ", got " +
                              std::to_string(spec.values));
}

}  // namespace leash
