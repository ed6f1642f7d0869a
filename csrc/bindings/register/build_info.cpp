#include <pybind11/stl.h>

#include <map>
#include <string>
#include <variant>

#include "bindings/register.h"

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

}  // namespace

void register_build_info(pybind11::module_& m) {
  m.def("build_info", build_info,
        "How this module was built: version, compiler, build_type, sanitized.");
}

}  // namespace leash::bindings
