#include "core/admission/clock.h"

#include <pybind11/stl.h>

#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {

// The class has no lock: every call is short and keeps the GIL.
void register_clock(py::module_& m) {
  py::class_<StepClock>(
      m, "StepClock",
      R"(Counts the steps of each live worker, and bounds how far one may be ahead.

bound: None for asp, 0 for bsp, s for ssp. The minimum never decreases.)")
      .def(py::init<std::optional<std::uint64_t>>(), py::arg("bound"))
      .def_property_readonly("bound", &StepClock::bound)
      .def("join", &StepClock::join, py::arg("worker"), py::arg("clock"),
           "ValueError if the worker is live already, or if the clock is below the minimum.")
      .def("leave", &StepClock::leave, py::arg("worker"), "KeyError if it is not live.")
      .def("tick", &StepClock::tick, py::arg("worker"),
           "Counts one more step; returns the new clock. KeyError if the worker is not live.")
      .def("clock", &StepClock::clock, py::arg("worker"), "KeyError if it is not live.")
      .def("minimum", &StepClock::minimum,
           "The smallest clock of any live worker; while none is live, the last minimum there was.")
      .def("lag", &StepClock::lag, py::arg("worker"), "clock(worker) - minimum().")
      .def("admits", &StepClock::admits, py::arg("worker"),
           "Whether the lag is within the bound, so that the worker may begin its next step.")
      .def("slowest", &StepClock::slowest,
           R"(Of the workers with the smallest clock, the one that has had it for longest.

0 if no worker is live.)")
      .def("is_fastest", &StepClock::is_fastest, py::arg("worker"),
           "Whether no worker has a larger clock. KeyError if the worker is not live.")
      .def("workers", &StepClock::workers, "The live workers, in ascending order.")
      .def("__len__", &StepClock::size)
      .def("__contains__", &StepClock::contains, py::arg("worker"));
}

}  // namespace leash::bindings
