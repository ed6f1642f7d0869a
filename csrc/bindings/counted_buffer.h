// Memory of Python objects that a shard needs beyond the call that brought it.
#pragma once

#include <cstddef>
#include <vector>

#include "bindings/buffer_view.h"

namespace leash::bindings {

// The owner that a shard knows. Several pushes may share one.
struct Held {
  BufferView view;
  std::size_t references;
};

// What Shard::take_freed() returned. With the GIL and without the lock: the last reference to a
// buffer may run any Python code.
inline void let_go(const std::vector<void*>& owners) {
  for (void* owner : owners) {
    auto* const held = static_cast<Held*>(owner);
    if (--held->references == 0) delete held;
  }
}

}  // namespace leash::bindings
