#include "core/base/slab.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace leash {

Slab::Slab(std::size_t nbytes) {
  const std::size_t size = round_up_to_cache_line(std::max<std::size_t>(nbytes, 1));
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kCacheLine, size)));
  if (data_ == nullptr) throw std::bad_alloc();
}

void Slab::Free::operator()(std::byte* data) const noexcept { std::free(data); }

}  // namespace leash
