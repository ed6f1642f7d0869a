#include "core/options/schedule.h"

#include <string>

#include "bindings/choices.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

Schedule make_schedule(const std::string& decay, std::uint64_t step_size, double gamma,
                       std::uint64_t total_updates, double minimum, std::uint64_t warmup_updates,
                       double warmup_start_factor, double power, double offset) {
  const Schedule schedule{value_in(kScheduleDecays, "decay", decay),
                          step_size,
                          gamma,
                          total_updates,
                          minimum,
                          warmup_updates,
                          warmup_start_factor,
                          power,
                          offset};
  validate(schedule);
  return schedule;
}

}  // namespace

void register_schedule(py::module_& m) {
  const Schedule defaults;
  py::class_<Schedule>(m, "Schedule", R"(The learning rate as a function of the number of updates.

decay: 'constant', 'step' (torch's StepLR: step_size, gamma), 'cosine' (CosineAnnealingLR from 0
to total_updates, down to minimum, where it stays) or 'power' (base * (version +
offset)**-power). A warm-up comes first (LinearLR, from warmup_start_factor to 1 in
warmup_updates), and the decay counts updates from its end.)")
      .def(py::init(&make_schedule), py::arg("decay") = "constant", py::kw_only(),
           py::arg("step_size") = defaults.step_size, py::arg("gamma") = defaults.gamma,
           py::arg("total_updates") = defaults.total_updates, py::arg("minimum") = defaults.minimum,
           py::arg("warmup_updates") = defaults.warmup_updates,
           py::arg("warmup_start_factor") = defaults.warmup_start_factor,
           py::arg("power") = defaults.power, py::arg("offset") = defaults.offset)
      .def("lr", &Schedule::lr, py::arg("base"), py::arg("version"),
           "The learning rate of the update that follows `version` others.")
      .def("__repr__", [](const Schedule& s) {
        return "Schedule('" + std::string(name_in(kScheduleDecays, s.decay)) + "')";
      });
}

}  // namespace leash::bindings
