// The bytes of a Python object, held until the view is destroyed.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>

namespace leash::bindings {

enum class Access { kRead, kWrite };

// Accepts any contiguous buffer, whatever the type of its items, and never copies or converts it.
// Constructor and destructor need the GIL; data() may be used without.
class BufferView {
 public:
  // Throws ValueError, beginning with `what`, if the object is not contiguous, or is read-only
  // though access is kWrite.
  BufferView(const pybind11::buffer& object, Access access, const std::string& what);

  // Throws ValueError also if the object does not have nbytes bytes.
  BufferView(const pybind11::buffer& object, Access access, std::size_t nbytes,
             const std::string& what);
  ~BufferView() { PyBuffer_Release(&view_); }

  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(view_.buf); }
  std::size_t nbytes() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_;
};

}  // namespace leash::bindings
