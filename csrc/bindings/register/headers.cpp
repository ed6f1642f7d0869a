#include "core/wire/headers.h"

#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

#include "bindings/buffer_view.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

std::span<const std::byte> bytes_of(const BufferView& view) { return {view.data(), view.nbytes()}; }

py::bytes bytes_of(const HeaderBytes& header) {
  const std::span<const std::byte> bytes = header.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

WireCodec checked_codec(const std::string& name) {
  if (const std::optional<WireCodec> codec = wire_codec(name)) return *codec;
  throw std::invalid_argument("codec: expected one of f32, f64, bf16, f16, int8, topk, got '" +
                              name + "'");
}

std::string_view checked_size(std::string_view bytes, std::size_t most, const char* what) {
  if (bytes.size() <= most) return bytes;
  throw std::invalid_argument(std::string(what) + ": expected at most " + std::to_string(most) +
                              " bytes, got " + std::to_string(bytes.size()));
}

// What read_answer() and read_push() give, by the names of the fields, with the verb as "t".
using Fields = py::typing::Dict<py::str, py::object>;

Fields fields_of(const PushHeader& header) {
  using namespace py::literals;
  Fields fields("t"_a = "push", "worker"_a = header.worker, "incarnation"_a = header.incarnation,
                "step"_a = header.step, "chunk"_a = header.chunk, "codec"_a = name_of(header.codec),
                "samples"_a = header.samples, "absent"_a = py::bytes(header.absent),
                "table"_a = header.table);
  if (!header.wants_parameters) return fields;
  fields["t"] = "push_pull";
  fields["chunks"] = header.chunks;
  fields["slab"] = header.slab;
  fields["nbytes"] = header.nbytes;
  fields["has"] = header.has;
  fields["answer"] = header.answer ? name_of(*header.answer) : std::string_view();
  return fields;
}

Fields fields_of(const ParamsHeader& header) {
  using namespace py::literals;
  return Fields("t"_a = "params", "worker"_a = header.worker, "step"_a = header.step,
                "chunk"_a = header.chunk, "codec"_a = name_of(header.codec),
                "version"_a = header.version, "lag"_a = header.lag,
                "staleness"_a = header.staleness, "chunks"_a = header.chunks,
                "unchanged"_a = header.unchanged);
}

Fields fields_of(const OkHeader& header) {
  using namespace py::literals;
  return Fields("t"_a = "ok", "worker"_a = header.worker, "step"_a = header.step,
                "chunk"_a = header.chunk, "taken"_a = header.taken, "number"_a = header.number);
}

Fields fields_of(const ErrorHeader& header) {
  using namespace py::literals;
  return Fields("t"_a = "error", "code"_a = header.code, "text"_a = header.text,
                "worker"_a = header.worker, "step"_a = header.step, "chunk"_a = header.chunk,
                "clock"_a = header.clock);
}

std::optional<Fields> fields_of(std::monostate) { return std::nullopt; }

std::optional<Fields> read_push(const py::buffer& header) {
  const BufferView view(header, Access::kRead, "header");
  const std::optional<PushHeader> push = leash::read_push(bytes_of(view));
  if (!push) return std::nullopt;
  return fields_of(*push);
}

std::optional<Fields> read_answer(const py::buffer& header) {
  const BufferView view(header, Access::kRead, "header");
  return std::visit([](const auto& answer) { return std::optional<Fields>(fields_of(answer)); },
                    leash::read_answer(bytes_of(view)));
}

py::bytes write_push(std::uint32_t worker, std::uint64_t incarnation, std::uint64_t step,
                     std::uint32_t chunk, const std::string& codec, std::uint32_t samples,
                     const py::bytes& absent, std::uint64_t table) {
  PushHeader header;
  header.worker = worker;
  header.incarnation = incarnation;
  header.step = step;
  header.chunk = chunk;
  header.codec = checked_codec(codec);
  header.samples = samples;
  header.absent = checked_size(absent, kMaxAbsentNbytes, "absent");
  header.table = table;
  return bytes_of(HeaderBytes(header));
}

py::bytes write_push_pull(std::uint32_t worker, std::uint64_t incarnation, std::uint64_t step,
                          std::uint32_t chunk, const std::string& codec, std::uint32_t samples,
                          std::uint64_t chunks, std::uint32_t slab, std::uint64_t nbytes,
                          const py::bytes& absent, std::uint64_t has, std::uint64_t table,
                          const std::string& answer) {
  PushHeader header;
  header.worker = worker;
  header.incarnation = incarnation;
  header.step = step;
  header.chunk = chunk;
  header.codec = checked_codec(codec);
  header.samples = samples;
  header.wants_parameters = true;
  header.chunks = chunks;
  header.slab = slab;
  header.nbytes = nbytes;
  header.absent = checked_size(absent, kMaxAbsentNbytes, "absent");
  header.has = has;
  if (!answer.empty()) header.answer = checked_codec(answer);
  header.table = table;
  return bytes_of(HeaderBytes(header));
}

py::bytes write_params(std::uint32_t worker, std::uint64_t step, std::uint32_t chunk,
                       const std::string& codec, std::uint64_t version, std::uint64_t lag,
                       std::uint64_t staleness, std::uint64_t chunks, bool unchanged) {
  return bytes_of(HeaderBytes(ParamsHeader{worker, step, chunk, checked_codec(codec), version, lag,
                                           staleness, chunks, unchanged}));
}

py::bytes write_ok(std::uint32_t worker, std::uint64_t step, std::uint32_t chunk, bool taken,
                   std::uint64_t number) {
  return bytes_of(HeaderBytes(OkHeader{worker, step, chunk, taken, number}));
}

py::bytes write_error(const std::string& code, const std::string& text, std::uint32_t worker,
                      std::uint64_t step, std::uint32_t chunk, std::uint64_t clock) {
  checked_size(code, kMaxErrorCodeNbytes, "code");
  return bytes_of(HeaderBytes(ErrorHeader{code, text, worker, step, chunk, clock}));
}

// The class that Python sees the headers in, as for the codecs.
struct HeaderGroup {};

}  // namespace

void register_headers(py::module_& m) {
  py::class_<HeaderGroup>(m, "headers", R"(Reads and writes the headers that travel with every step.

These are push, push_pull, params, ok and error; leash.ps.wire.frames has all verbs. What is written
has the bytes of frames.encode. What is read is a map from the names of fields to values, with the
verb as "t".)")
      .def_static("read_push", read_push, py::arg("header"),
                  R"(The fields of a push or push_pull.

None for any other verb, for a codec that is not known, and for what frames.decode refuses.)")
      .def_static("read_answer", read_answer, py::arg("header"),
                  "The fields of a params, ok or error; None as for read_push.")
      .def_static("write_push", write_push, py::arg("worker"), py::arg("incarnation"),
                  py::arg("step"), py::arg("chunk"), py::arg("codec"), py::arg("samples"),
                  py::arg("absent") = py::bytes(), py::arg("table") = 0)
      .def_static("write_push_pull", write_push_pull, py::arg("worker"), py::arg("incarnation"),
                  py::arg("step"), py::arg("chunk"), py::arg("codec"), py::arg("samples"),
                  py::arg("chunks") = 1, py::arg("slab") = 0, py::arg("nbytes") = 0,
                  py::arg("absent") = py::bytes(), py::arg("has") = 0, py::arg("table") = 0,
                  py::arg("answer") = "")
      .def_static("write_params", write_params, py::arg("worker"), py::arg("step"),
                  py::arg("chunk"), py::arg("codec"), py::arg("version"), py::arg("lag"),
                  py::arg("staleness"), py::arg("chunks") = 1, py::arg("unchanged") = false)
      .def_static("write_ok", write_ok, py::arg("worker"), py::arg("step"), py::arg("chunk"),
                  py::arg("taken"), py::arg("number") = 0)
      .def_static("write_error", write_error, py::arg("code"), py::arg("text"), py::arg("worker"),
                  py::arg("step"), py::arg("chunk"), py::arg("clock"),
                  "Cuts a text behind its 512th character.");
}

}  // namespace leash::bindings
