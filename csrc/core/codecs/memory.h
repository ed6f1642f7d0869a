// Memory of messages. It is not the core's: whoever calls Shard::push() brings it, and an owner, an
// opaque pointer, stands for it. The core reads and writes the memory, never looks behind the
// owner, and gives the owner back through Shard::take_freed() when it needs the memory no longer.
#pragma once

#include <cstddef>

#include "core/codecs/codec.h"

namespace leash {

// A gradient, where its message left it.
struct Gradient {
  Encoded encoded = {};
  void* owner = nullptr;
};

// Where a chunk's parameters are to be written, and in which codec.
struct Destination {
  std::byte* data = nullptr;
  Codec codec = Codec::kRaw;  // or kBf16, kF16
  void* owner = nullptr;
};

}  // namespace leash
