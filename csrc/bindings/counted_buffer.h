// Buffers of Python objects that a shard needs beyond the call that brought them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>
#include <vector>

#include "bindings/buffer_view.h"
#include "core/shard_engine/buffer.h"

namespace leash::bindings {

// Keeps a Python object and its bytes. Made and deleted with the GIL held only.
class PythonBuffer : public Buffer {
 public:
  // Throw ValueError as BufferView does.
  PythonBuffer(const pybind11::buffer& object, Access access, const std::string& what)
      : view_(object, access, what), object_(object) {
    set_memory(view_.data(), view_.nbytes());
  }
  PythonBuffer(const pybind11::buffer& object, Access access, std::size_t nbytes,
               const std::string& what)
      : view_(object, access, nbytes, what), object_(object) {
    set_memory(view_.data(), view_.nbytes());
  }

  const pybind11::object& object() const { return object_; }

 private:
  BufferView view_;
  pybind11::object object_;
};

// The owner of a push's memory, as the core knows it.
inline void* owner_of(Buffer* buffer) { return buffer; }

// Drops a reference, and with the last one the buffer. REQUIRES: the caller holds the GIL and not
// the shard's lock, since to drop a buffer may run any Python code.
inline void drop_reference(Buffer* buffer) {
  if (buffer->drop_reference()) delete buffer;
}

// Drops one for each owner that Shard::take_freed() returned. REQUIRES: the same.
inline void drop_references(const std::vector<void*>& owners) {
  for (void* owner : owners) drop_reference(static_cast<Buffer*>(owner));
}

// A reference that is dropped at the end of a call, also if an exception ends it. REQUIRES: the
// same.
class HeldReference {
 public:
  explicit HeldReference(Buffer* buffer) : buffer_(buffer) {}
  ~HeldReference() {
    if (buffer_ != nullptr) drop_reference(buffer_);
  }
  HeldReference(const HeldReference&) = delete;
  HeldReference& operator=(const HeldReference&) = delete;

  Buffer* get() const { return buffer_; }
  // Another reference, which is the caller's.
  void* share() const {
    buffer_->add_reference();
    return owner_of(buffer_);
  }

 private:
  Buffer* buffer_;
};

}  // namespace leash::bindings
