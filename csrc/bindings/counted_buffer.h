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

// Drops references, and with the last one the buffer. REQUIRES: the caller holds the GIL and not
// the shard's lock, since to drop a buffer may run any Python code.
inline void drop_references(CountedBuffer* buffer, std::size_t references = 1) {
  buffer->references -= references;
  if (buffer->references == 0) delete buffer;
}

// Drops one for each owner that Shard::take_freed() returned. REQUIRES: the same.
inline void drop_references(const std::vector<void*>& owners) {
  for (void* owner : owners) drop_references(static_cast<CountedBuffer*>(owner));
}

// The references to a buffer that nobody has taken over yet. The destructor drops those that are
// left, also if an exception calls it.
class UnclaimedReferences {
 public:
  UnclaimedReferences(CountedBuffer* buffer, std::size_t references)
      : buffer_(buffer), left_(references) {}
  ~UnclaimedReferences() {
    if (left_ != 0) drop_references(buffer_, left_);
  }

  UnclaimedReferences(const UnclaimedReferences&) = delete;
  UnclaimedReferences& operator=(const UnclaimedReferences&) = delete;

  // The caller takes over one reference.
  CountedBuffer* claim() {
    --left_;
    return buffer_;
  }

 private:
  CountedBuffer* buffer_;
  std::size_t left_;
};

}  // namespace leash::bindings
