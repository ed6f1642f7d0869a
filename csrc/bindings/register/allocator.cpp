#include "core/base/allocator.h"

#include "bindings/register.h"

namespace leash::bindings {

void register_allocator(pybind11::module_& m) {
  m.def(
      "keep_freed_memory", &keep_freed_memory,
      "From now on this process keeps the memory that it frees, up to a few hundred megabytes, "
      "instead of paying for it again in page faults. False if malloc refuses, or is not glibc's. "
      "For a process of Leash's own.");
}

}  // namespace leash::bindings
