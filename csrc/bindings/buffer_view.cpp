#include "bindings/buffer_view.h"

#include <stdexcept>

namespace py = pybind11;

namespace leash::bindings {

BufferView::BufferView(const py::buffer& object, Access access, std::size_t nbytes,
                       const std::string& what) {
  const bool writes = access == Access::kWrite;
  if (PyObject_GetBuffer(object.ptr(), &view_, writes ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
    py::error_already_set cause;
    const char* expected = writes ? "a writable, contiguous buffer" : "a contiguous buffer";
    py::raise_from(cause, PyExc_ValueError, (what + ": expected " + expected).c_str());
    throw py::error_already_set();
  }
  const auto came = static_cast<std::size_t>(view_.len);
  if (came == nbytes) return;
  PyBuffer_Release(&view_);
  throw std::invalid_argument(what + ": expected " + std::to_string(nbytes) + " bytes, got " +
                              std::to_string(came));
}

}  // namespace leash::bindings
