#include "core/base/allocator.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace leash {

bool keep_freed_memory() noexcept {
#ifdef __GLIBC__
  // Blocks larger than this still come from mmap, and go back at once.
  const bool maps_less = mallopt(M_MMAP_THRESHOLD, 32 << 20) != 0;
  const bool trims_less = mallopt(M_TRIM_THRESHOLD, 256 << 20) != 0;
  // One arena: what one thread frees, the thread that receives messages uses again.
  const bool shares = mallopt(M_ARENA_MAX, 1) != 0;
  return maps_less && trims_less && shares;
#else
  return false;
#endif
}

}  // namespace leash
