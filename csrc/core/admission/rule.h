// The rule that a policy stands for: who waits for whom, and which gradients count. ps/policy.py is
// the table from the names of policies to rules.
#pragma once

#include <cstdint>
#include <optional>

namespace leash {

// What a bound counts.
enum class BoundUnit : std::uint8_t {
  kClocks,   // a worker goes on while its clock - the smallest clock <= bound
  kVersions  // a worker goes on while the version - the oldest that a worker computes with <= bound
};

// How gradients become updates.
enum class Gather : std::uint8_t {
  kEach,  // every gradient is an update, on arrival
  kStep,  // the mean of a step's gradients, when every live worker has reached that step
  kRound  // the mean of the gradients of one version, when enough live workers have sent one
};

struct Rule {
  std::optional<std::uint64_t> bound = {};  // none: workers never wait for slower ones
  // Makes the bound dynamic, between `bound` and this: see Admission.
  std::optional<std::uint64_t> bound_max = {};
  BoundUnit unit = BoundUnit::kClocks;
  Gather gather = Gather::kEach;
  std::uint64_t backup_workers = 0;  // how many of the live workers a round does not wait for
  // A push that is staler than this is answered and not applied.
  std::optional<std::uint64_t> staleness_limit = {};
};

// How far apart the limits of a dynamic bound may be: each decision tries every value between them.
inline constexpr std::uint64_t kMaxDynamicSteps = 1024;

// Throws std::invalid_argument for a rule that contradicts itself.
void validate(const Rule& rule);

}  // namespace leash
