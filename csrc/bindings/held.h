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

// Gives references back. With the GIL and without the lock: the last reference to a buffer may run
// any Python code.
inline void let_go(Held* held, std::size_t references = 1) {
  held->references -= references;
  if (held->references == 0) delete held;
}

// The same for what Shard::take_freed() returned.
inline void let_go(const std::vector<void*>& owners) {
  for (void* owner : owners) let_go(static_cast<Held*>(owner));
}

// The references to a Held that nobody has taken over yet. What is left of them at the end, however
// that comes, is given back.
class Unclaimed {
 public:
  Unclaimed(Held* held, std::size_t references) : held_(held), left_(references) {}
  ~Unclaimed() {
    if (left_ != 0) let_go(held_, left_);
  }

  Unclaimed(const Unclaimed&) = delete;
  Unclaimed& operator=(const Unclaimed&) = delete;

  Held* claim() {
    --left_;
    return held_;
  }

 private:
  Held* held_;
  std::size_t left_;
};

}  // namespace leash::bindings
