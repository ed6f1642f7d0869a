#include "core/admission/clock.h"

#include <pybind11/stl.h>

#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {

// Without a lock of its own: every call is short and keeps the GIL.
void register_clock(py::module_& m) {
  py::class_<StalenessClock>(m, "StalenessClock", R"(How many steps each live worker has done.

A bound of None is asp, 0 is bsp, s is ssp. The minimum never decreases.)")
      .def(py::init<std::optional<std::uint64_t>>(), py::arg("bound"))
      .def_property_readonly("bound", &StalenessClock::bound)
      .def("join", &StalenessClock::join, py::arg("worker"), py::arg("clock"),
           "ValueError if the worker is live already, or if the clock is below the minimum.")
      .def("leave", &StalenessClock::leave, py::arg("worker"), "KeyError if it is not live.")
      .def("tick", &StalenessClock::tick, py::arg("worker"),
           "One more step; returns the new clock. KeyError if the worker is not live.")
      .def("clock", &StalenessClock::clock, py::arg("worker"), "KeyError if it is not live.")
      .def("minimum", &StalenessClock::minimum,
           "The smallest clock of any live worker; the last one there was when nobody is live.")
      .def("lag", &StalenessClock::lag, py::arg("worker"), "clock(worker) - minimum().")
      .def("admits", &StalenessClock::admits, py::arg("worker"),
           "Is the lag within the bound: may the worker begin its next step?")
      .def("slowest", &StalenessClock::slowest,
           R"(Of the workers with the smallest clock, the one that has had it for longest.

0 if nobody is live.)")
      .def("is_fastest", &StalenessClock::is_fastest, py::arg("worker"),
           "Nobody has a larger clock. KeyError if the worker is not live.")
      .def("workers", &StalenessClock::workers, "The live workers, in ascending order.")
      .def("__len__", &StalenessClock::size)
      .def("__contains__", &StalenessClock::contains, py::arg("worker"));
}

}  // namespace leash::bindings
