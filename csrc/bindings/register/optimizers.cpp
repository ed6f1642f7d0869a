#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>

#include "bindings/register.h"
#include "core/options/optimizer_options.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

SgdOptions make_sgd(double lr, double momentum, double dampening, double weight_decay,
                    bool nesterov, bool maximize) {
  const SgdOptions options{lr, momentum, dampening, weight_decay, nesterov, maximize};
  validate(options);
  return options;
}

AdamOptions make_adam(double lr, std::pair<double, double> betas, double eps, double weight_decay,
                      bool amsgrad, bool maximize, bool decoupled) {
  const AdamOptions options{lr,           betas.first, betas.second, eps,
                            weight_decay, amsgrad,     maximize,     decoupled};
  validate(options);
  return options;
}

AdagradOptions make_adagrad(double lr, double lr_decay, double weight_decay,
                            double initial_accumulator_value, double eps, bool maximize) {
  const AdagradOptions options{lr,  lr_decay, weight_decay, initial_accumulator_value,
                               eps, maximize};
  validate(options);
  return options;
}

SumOptions make_sum(double lr) {
  const SumOptions options{lr};
  validate(options);
  return options;
}

}  // namespace

void register_optimizers(py::module_& m) {
  py::class_<SgdOptions>(m, "SgdOptions", R"(The settings of torch.optim.SGD.

ValueError for what torch.optim.SGD refuses and for values that are not finite.)")
      .def(py::init(&make_sgd), py::arg("lr") = 1e-3, py::arg("momentum") = 0.0,
           py::arg("dampening") = 0.0, py::arg("weight_decay") = 0.0, py::arg("nesterov") = false,
           py::kw_only(), py::arg("maximize") = false)
      .def_readonly("lr", &SgdOptions::lr)
      .def_readonly("momentum", &SgdOptions::momentum)
      .def_readonly("dampening", &SgdOptions::dampening)
      .def_readonly("weight_decay", &SgdOptions::weight_decay)
      .def_readonly("nesterov", &SgdOptions::nesterov)
      .def_readonly("maximize", &SgdOptions::maximize);

  py::class_<AdamOptions>(m, "AdamOptions", R"(The settings of torch.optim.Adam.

With decoupled those of torch.optim.AdamW, whose own default of weight_decay is 0.01. ValueError for
what torch.optim refuses and for values that are not finite.)")
      .def(py::init(&make_adam), py::arg("lr") = 1e-3, py::arg("betas") = std::pair(0.9, 0.999),
           py::arg("eps") = 1e-8, py::arg("weight_decay") = 0.0, py::arg("amsgrad") = false,
           py::kw_only(), py::arg("maximize") = false, py::arg("decoupled") = false)
      .def_readonly("lr", &AdamOptions::lr)
      .def_property_readonly(
          "betas",
          [](const AdamOptions& options) { return std::pair(options.beta1, options.beta2); })
      .def_readonly("eps", &AdamOptions::eps)
      .def_readonly("weight_decay", &AdamOptions::weight_decay)
      .def_readonly("amsgrad", &AdamOptions::amsgrad)
      .def_readonly("maximize", &AdamOptions::maximize)
      .def_readonly("decoupled", &AdamOptions::decoupled);

  py::class_<AdagradOptions>(m, "AdagradOptions", R"(The settings of torch.optim.Adagrad.

ValueError for what torch.optim.Adagrad refuses and for values that are not finite.)")
      .def(py::init(&make_adagrad), py::arg("lr") = 1e-2, py::arg("lr_decay") = 0.0,
           py::arg("weight_decay") = 0.0, py::arg("initial_accumulator_value") = 0.0,
           py::arg("eps") = 1e-10, py::kw_only(), py::arg("maximize") = false)
      .def_readonly("lr", &AdagradOptions::lr)
      .def_readonly("lr_decay", &AdagradOptions::lr_decay)
      .def_readonly("weight_decay", &AdagradOptions::weight_decay)
      .def_readonly("initial_accumulator_value", &AdagradOptions::initial_accumulator_value)
      .def_readonly("eps", &AdagradOptions::eps)
      .def_readonly("maximize", &AdagradOptions::maximize);

  py::class_<SumOptions>(m, "SumOptions", R"(For parameters that are sums of what is pushed.

Under bsp w = (1 - lr) * w + lr * (the plain sum of a step's pushes, in the order of worker ids); on
arrival the same with one push. ValueError unless lr is from 0 to 1.)")
      .def(py::init(&make_sum), py::arg("lr") = 1.0)
      .def_readonly("lr", &SumOptions::lr);
}

}  // namespace leash::bindings
