#include "core/kernels/cpu.h"

#include <pybind11/stl.h>

#include <string_view>
#include <vector>

#include "bindings/register.h"

namespace leash::bindings {
namespace {

std::vector<std::string_view> instruction_set_names() {
  std::vector<std::string_view> names;
  for (InstructionSet isa : instruction_sets()) names.push_back(name_of(isa));
  return names;
}

}  // namespace

void register_cpu(pybind11::module_& m) {
  m.def(
      "instruction_set", [] { return name_of(instruction_set()); },
      "The instruction set in use: the fastest, or the one that LEASH_ISA names.");
  m.def("instruction_sets", instruction_set_names,
        "The instruction sets that this CPU runs, the slowest first.");
}

}  // namespace leash::bindings
