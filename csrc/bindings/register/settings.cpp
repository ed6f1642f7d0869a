#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/choices.h"
#include "bindings/register.h"
#include "core/optimizer/chunk_values.h"
#include "core/shard/push.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

ChunkSpec make_chunk_spec(std::size_t values, const std::string& dtype, const std::string& kind,
                          std::vector<std::size_t> piece_lengths,
                          std::vector<std::uint32_t> piece_slots,
                          std::vector<std::size_t> row_lengths) {
  const ChunkSpec spec{values,
                       value_in(kDtypes, "dtype", dtype),
                       value_in(kChunkKinds, "kind", kind),
                       std::move(piece_lengths),
                       std::move(piece_slots),
                       std::move(row_lengths)};
  validate(spec);
  return spec;
}

}  // namespace

void register_settings(py::module_& m) {
  py::class_<ChunkSpec>(m, "ChunkSpec", R"(What a chunk holds.

dtype is 'f32' or 'f64'. kind is 'parameter' (pushed as gradients) or 'buffer' (pushed as
values). piece_lengths and piece_slots: how many values belong to each of the slots that have a
part in the chunk, in their order, and the numbers of these slots in the whole model; without them
all values are slot 0's. row_lengths: how many values a row of each of these slots has, or 0 where
the slot's part is not made up of whole rows; without them each part is one row.)")
      .def(py::init(&make_chunk_spec), py::arg("values"), py::arg("dtype"), py::arg("kind"),
           py::arg("piece_lengths") = std::vector<std::size_t>(),
           py::arg("piece_slots") = std::vector<std::uint32_t>(),
           py::arg("row_lengths") = std::vector<std::size_t>())
      .def_readonly("values", &ChunkSpec::values)
      .def_readonly("piece_lengths", &ChunkSpec::piece_lengths)
      .def_readonly("piece_slots", &ChunkSpec::piece_slots)
      .def_readonly("row_lengths", &ChunkSpec::row_lengths)
      .def_property_readonly("dtype", [](const ChunkSpec& s) { return name_in(kDtypes, s.dtype); })
      .def_property_readonly("kind",
                             [](const ChunkSpec& s) { return name_in(kChunkKinds, s.kind); })
      .def_property_readonly("nbytes", &ChunkSpec::nbytes);

  py::native_enum<Nonfinite>(
      m, "Nonfinite", "enum.Enum",
      "What the shard does with a push of which a value would not be finite.")
      .value("RAISE", Nonfinite::kRaise, "leave that block out; the caller answers")
      .value("SKIP", Nonfinite::kSkip, "leave that block out, and answer as usual")
      .value("APPLY", Nonfinite::kApply, "apply it: no value is looked at")
      .finalize();
}

}  // namespace leash::bindings
