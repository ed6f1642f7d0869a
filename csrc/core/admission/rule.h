// What a policy comes to: who waits for whom, and which gradients count. ps/policy.py is the table
// that names the combinations.
#pragma once

#include <cstdint>
#include <optional>

namespace leash {

enum class Unit : std::uint8_t {
  kClocks,   // a worker may go on while its clock - the smallest clock <= bound
  kVersions  // ... while the chunk's version - the oldest that somebody computes with <= bound
};

enum class Gather : std::uint8_t {
  kEach,  // every gradient is an update, on arrival
  kStep,  // the mean of a step's gradients, when every live worker has reached that step
  kRound  // the mean of the gradients of one version, when enough live workers have sent one
};

struct Rule {
  std::optional<std::uint64_t> bound = {};  // none: nobody waits for it
  // The bound is dynamic, between `bound` and this: see Admission.
  std::optional<std::uint64_t> bound_max = {};
  Unit unit = Unit::kClocks;
  Gather gather = Gather::kEach;
  std::uint64_t backup_workers = 0;  // a round does not wait for so many of the live workers
  // A gradient that is staler is answered and not applied.
  std::optional<std::uint64_t> staleness_limit = {};
};

// How far apart the limits of a dynamic bound may be: each decision looks at all that lies between.
inline constexpr std::uint64_t kMaxDynamicSteps = 1024;

// Throws std::invalid_argument for a rule that contradicts itself.
void validate(const Rule& rule);

}  // namespace leash
