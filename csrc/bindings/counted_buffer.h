// Buffers of Python objects that a shard needs beyond the call that brought them.
#pragma once

#include <cstddef>
#include <vector>

#include "bindings/buffer_view.h"

namespace leash::bindings {

// What the opaque owner of a Push's memory points to. Several pushes may share one; it counts the
// times that the shard has yet to give it back. Changed with the GIL held only.
struct CountedBuffer {
  BufferView view;
  std::size_t references;
};

// Drops a reference for each owner that Shard::take_freed() returned, and with the last one the
// buffer. REQUIRES: the caller holds the GIL and not the shard's lock, since to drop a buffer may
// run any Python code.
inline void drop_references(const std::vector<void*>& owners) {
  for (void* owner : owners) {
    auto* const buffer = static_cast<CountedBuffer*>(owner);
    if (--buffer->references == 0) delete buffer;
  }
}

}  // namespace leash::bindings
