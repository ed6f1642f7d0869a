#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <string>

#include "bindings/names.h"
#include "bindings/register.h"
#include "core/chunk.h"
#include "core/push.h"
#include "core/sgd_options.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

ChunkSpec make_chunk_spec(std::size_t values, const std::string& dtype, const std::string& kind) {
  const ChunkSpec spec{values, value_of(kDtypes, "dtype", dtype), value_of(kKinds, "kind", kind)};
  validate(spec);
  return spec;
}

SgdOptions make_sgd_options(double lr, double momentum, double dampening, double weight_decay,
                            bool nesterov) {
  const SgdOptions options{lr, momentum, dampening, weight_decay, nesterov};
  validate(options);
  return options;
}

}  // namespace

void register_settings(py::module_& m) {
  py::class_<ChunkSpec>(m, "ChunkSpec", R"(What a chunk holds.

dtype is 'f32' or 'f64'. kind is 'parameter' (pushed as gradients) or 'buffer' (pushed as
values).)")
      .def(py::init(&make_chunk_spec), py::arg("values"), py::arg("dtype"), py::arg("kind"))
      .def_readonly("values", &ChunkSpec::values)
      .def_property_readonly("dtype", [](const ChunkSpec& s) { return name_in(kDtypes, s.dtype); })
      .def_property_readonly("kind", [](const ChunkSpec& s) { return name_in(kKinds, s.kind); })
      .def_property_readonly("nbytes", &ChunkSpec::nbytes);

  py::class_<SgdOptions>(m, "SgdOptions", R"(The settings of torch.optim.SGD.

ValueError for what torch.optim.SGD refuses and for values that are not finite.)")
      .def(py::init(&make_sgd_options), py::arg("lr"), py::arg("momentum") = 0.0,
           py::arg("dampening") = 0.0, py::arg("weight_decay") = 0.0, py::arg("nesterov") = false)
      .def_readonly("lr", &SgdOptions::lr)
      .def_readonly("momentum", &SgdOptions::momentum)
      .def_readonly("dampening", &SgdOptions::dampening)
      .def_readonly("weight_decay", &SgdOptions::weight_decay)
      .def_readonly("nesterov", &SgdOptions::nesterov);

  py::native_enum<Nonfinite>(m, "Nonfinite", "enum.Enum",
                             "What to do with a push that holds a NaN or an infinity.")
      .value("RAISE", Nonfinite::kRaise, "tick, change nothing, leave the answer to the caller")
      .value("SKIP", Nonfinite::kSkip, "tick, change nothing, answer as usual")
      .value("APPLY", Nonfinite::kApply, "do not look")
      .finalize();
}

}  // namespace leash::bindings
