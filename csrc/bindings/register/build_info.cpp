#include <pybind11/stl.h>

#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bindings/register.h"
#include "core/kernels/cpu.h"

#ifndef LEASH_SANITIZED
#define LEASH_SANITIZED 0
#endif

namespace leash::bindings {
namespace {

using Info = std::map<std::string, std::variant<bool, std::string>>;

Info build_info() {
  return {{"version", LEASH_VERSION},
          {"compiler", LEASH_COMPILER},
          {"build_type", LEASH_BUILD_TYPE},
          {"sanitized", LEASH_SANITIZED != 0}};
}

std::vector<std::string_view> instruction_set_names() {
  std::vector<std::string_view> names;
  for (InstructionSet isa : instruction_sets()) names.push_back(name_of(isa));
  return names;
}

}  // namespace

void register_build_info(pybind11::module_& m) {
  m.def("build_info", build_info,
        "How this module was built: version, compiler, build_type, sanitized.");
  m.def(
      "instruction_set", [] { return name_of(instruction_set()); },
      "The instruction set in use: the fastest, or the one that LEASH_ISA names.");
  m.def("instruction_sets", instruction_set_names,
        "The instruction sets that this CPU runs, the slowest first.");
}

}  // namespace leash::bindings
