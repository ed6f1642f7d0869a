#include "bindings/buffer_view.h"

#include <stdexcept>

namespace py = pybind11;

namespace leash::bindings {

BufferView::BufferView(const py::buffer& object, Access access, const std::string& what) {
  const bool writes = access == Access::kWrite;
  if (PyObject_GetBuffer(object.ptr(), &view_, writes ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
    py::error_already_set cause;
    const char* expected = writes ? "a writable, contiguous buffer" : "a contiguous buffer";
    py::raise_from(cause, PyExc_ValueError, (what + ": expected " + expected).c_str());
    throw py::error_already_set();
  }
}

// If this throws, the destructor still runs: the constructor that it calls has returned by then.
BufferView::BufferView(const py::buffer& object, Access access, std::size_t expected,
                       const std::string& what)
    : BufferView(object, access, what) {
  if (nbytes() == expected) return;
  throw std::invalid_argument(what + ": expected " + std::to_string(expected) + " bytes, got " +
                              std::to_string(nbytes()));
}

}  // namespace leash::bindings
