#include <pybind11/native_enum.h>

#include <string>

#include "bindings/choices.h"
#include "bindings/register.h"
#include "core/optimizer/chunk_values.h"
#include "core/shard/push.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

ChunkSpec make_chunk_spec(std::size_t values, const std::string& dtype, const std::string& kind) {
  const ChunkSpec spec{values, value_in(kDtypes, "dtype", dtype),
                       value_in(kChunkKinds, "kind", kind)};
  validate(spec);
  return spec;
}

}  // namespace

void register_settings(py::module_& m) {
  py::class_<ChunkSpec>(m, "ChunkSpec", R"(What a chunk holds.

dtype is 'f32' or 'f64'. kind is 'parameter' (pushed as gradients) or 'buffer' (pushed as
values).)")
      .def(py::init(&make_chunk_spec), py::arg("values"), py::arg("dtype"), py::arg("kind"))
      .def_readonly("values", &ChunkSpec::values)
      .def_property_readonly("dtype", [](const ChunkSpec& s) { return name_in(kDtypes, s.dtype); })
      .def_property_readonly("kind",
                             [](const ChunkSpec& s) { return name_in(kChunkKinds, s.kind); })
      .def_property_readonly("nbytes", &ChunkSpec::nbytes);

  py::native_enum<Nonfinite>(m, "Nonfinite", "enum.Enum",
                             "What the shard does with a push that holds a NaN or an infinity.")
      .value("RAISE", Nonfinite::kRaise, "do not apply it; the caller answers")
      .value("SKIP", Nonfinite::kSkip, "do not apply it, and answer as usual")
      .value("APPLY", Nonfinite::kApply, "apply it: no value is looked at")
      .finalize();
}

}  // namespace leash::bindings
