#include "core/base/errors.h"

#include <exception>
#include <system_error>

#include "bindings/register.h"

namespace leash::bindings {

void register_errors(pybind11::module_&) {
  pybind11::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending) std::rethrow_exception(pending);
    } catch (const NotLive& error) {
      pybind11::set_error(PyExc_KeyError, error.what());
    } catch (const std::system_error& error) {
      pybind11::set_error(PyExc_OSError, error.what());
    }
  });
}

}  // namespace leash::bindings
