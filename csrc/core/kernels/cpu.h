// Which instruction sets this processor runs, and which one the kernels use.
#pragma once

#include <span>
#include <string_view>

namespace leash {

enum class InstructionSet { kGeneric, kAvx2, kAvx512 };

std::string_view name_of(InstructionSet isa);

// The instruction sets that this build has kernels for and this processor runs, the slowest first.
std::span<const InstructionSet> instruction_sets();

// The one called `name`. Throws std::runtime_error, naming the choices, if it is none of
// instruction_sets().
InstructionSet instruction_set_named(std::string_view name);

// The one in use: the fastest, or the one that the environment variable LEASH_ISA names, which is
// read at the first call. Throws as instruction_set_named() does.
InstructionSet instruction_set();

}  // namespace leash
