#include "core/kernels/cpu.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace leash {
namespace {

std::vector<InstructionSet> detect() {
  std::vector<InstructionSet> found{InstructionSet::kGeneric};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
    found.push_back(InstructionSet::kAvx2);
  }
  if (found.back() == InstructionSet::kAvx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    found.push_back(InstructionSet::kAvx512);
  }
#endif
  return found;
}

InstructionSet choose() {
  const char* wanted = std::getenv("LEASH_ISA");
  if (wanted == nullptr || *wanted == '\0') return instruction_sets().back();
  try {
    return instruction_set_named(wanted);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("LEASH_ISA: ") + error.what());
  }
}

}  // namespace

std::string_view name_of(InstructionSet isa) {
  switch (isa) {
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kGeneric:
      break;
  }
  return "generic";
}

std::span<const InstructionSet> instruction_sets() {
  static const std::vector<InstructionSet> found = detect();
  return found;
}

InstructionSet instruction_set_named(std::string_view name) {
  const auto choices = instruction_sets();
  const auto found = std::ranges::find(choices, name, name_of);
  if (found != choices.end()) return *found;
  std::string names;
  for (InstructionSet isa : choices) names.append(names.empty() ? "" : ", ").append(name_of(isa));
  throw std::runtime_error("instruction set '" + std::string(name) + "': this CPU runs " + names);
}

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

}  // namespace leash
