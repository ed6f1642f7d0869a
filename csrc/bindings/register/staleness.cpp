#include "core/options/staleness.h"

#include <string>

#include "bindings/choices.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

StalenessRate make_rate(const std::string& decay, double power) {
  const StalenessRate rate{value_in(kStalenessDecays, "decay", decay), power};
  validate(rate);
  return rate;
}

DelayCompensation make_compensation(const std::string& kind, double strength, double decay) {
  const DelayCompensation compensation{value_in(kCompensationKinds, "kind", kind), strength, decay};
  validate(compensation);
  return compensation;
}

}  // namespace

void register_staleness(py::module_& m) {
  const StalenessRate rate;
  py::class_<StalenessRate>(m, "StalenessRate", R"(The factor of a stale update's learning rate.

decay: 'none', 'inverse' (1 / max(1, staleness); Zhang et al. 2016, arXiv:1511.05950) or 'poly'
((1 + staleness)^-power; Xie et al. 2019, arXiv:1903.03934).)")
      .def(py::init(&make_rate), py::arg("decay") = "none", py::kw_only(),
           py::arg("power") = rate.power)
      .def("factor", &StalenessRate::factor, py::arg("staleness"),
           "The factor for an update of this staleness.")
      .def("__repr__", [](const StalenessRate& r) {
        return "StalenessRate('" + std::string(name_in(kStalenessDecays, r.decay)) + "')";
      });

  const DelayCompensation off;
  py::class_<DelayCompensation>(m, "DelayCompensation",
                                R"(DC-ASGD (Zheng et al. 2017, arXiv:1609.08326).

A gradient g becomes g + strength * g * g * (w - w_old), where w_old are the parameters that its
worker had. kind: 'none', 'constant', or 'adaptive', which divides the strength by
sqrt(mean_square + 1e-7), element by element; there mean_square = decay * mean_square + (1 -
decay) * g * g, from 0.)")
      .def(py::init(&make_compensation), py::arg("kind") = "none", py::kw_only(),
           py::arg("strength") = off.lambda, py::arg("decay") = off.decay)
      .def_property_readonly(
          "kind", [](const DelayCompensation& c) { return name_in(kCompensationKinds, c.kind); })
      .def_readonly("strength", &DelayCompensation::lambda)
      .def_readonly("decay", &DelayCompensation::decay)
      .def("__repr__", [](const DelayCompensation& c) {
        return "DelayCompensation('" + std::string(name_in(kCompensationKinds, c.kind)) + "')";
      });
}

}  // namespace leash::bindings
