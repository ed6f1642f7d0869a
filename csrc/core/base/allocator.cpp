#include "core/base/allocator.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace leash {

void keep_freed_memory() noexcept {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // larger blocks still come from mmap, and go back at once
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  // One arena: what one thread frees, the thread that receives messages uses again.
  mallopt(M_ARENA_MAX, 1);
#endif
}

}  // namespace leash
