#include "core/base/slab.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace leash {
namespace {

void ask_for_huge_pages([[maybe_unused]] std::byte* data, [[maybe_unused]] std::size_t nbytes) {
#ifdef MADV_HUGEPAGE
  // A refusal is no error: the pages are then small.
  static_cast<void>(madvise(data, nbytes / kHugePage * kHugePage, MADV_HUGEPAGE));
#endif
}

}  // namespace

Slab::Slab(std::size_t nbytes) {
  const std::size_t size = round_up_to_cache_line(std::max<std::size_t>(nbytes, 1));
  const bool is_large = size >= kWorthHugePages;
  void* data = nullptr;
  // Unlike aligned_alloc(), it takes a size that is no multiple of the alignment.
  if (posix_memalign(&data, is_large ? kHugePage : kCacheLine, size) != 0) throw std::bad_alloc();
  data_.reset(static_cast<std::byte*>(data));
  if (is_large) ask_for_huge_pages(data_.get(), size);
}

}  // namespace leash
