#include "core/step_engine/step_engine.h"

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/choices.h"
#include "bindings/owning_step_engine.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

constexpr std::size_t kNoLimit = 0xffff'ffff;

using Pieces = std::vector<std::tuple<std::uint32_t, std::size_t, std::size_t>>;

StepChunk make_chunk(std::size_t start, std::size_t values, const std::string& dtype,
                     const std::string& kind, const Pieces& pieces) {
  StepChunk chunk{.start = start,
                  .values = values,
                  .dtype = value_in(kDtypes, "dtype", dtype),
                  .is_parameters = value_in(kChunkKinds, "kind", kind) == ChunkKind::kParameter};
  for (const auto& [slot, begin, count] : pieces) {
    const std::size_t nbytes = count * size_of(chunk.dtype);
    if (begin < chunk.start || begin > chunk.stop() || nbytes > chunk.stop() - begin) {
      throw std::invalid_argument("pieces: expected parts of the chunk");
    }
    chunk.pieces.push_back({slot, begin, count});
  }
  return chunk;
}

WireCodec require_codec(const char* what, const std::string& name) {
  if (const std::optional<WireCodec> known = wire_codec(name)) return *known;
  throw std::invalid_argument(what + (": expected one of the wire's, got '" + name + "'"));
}

std::unique_ptr<OwningStepEngine> make_engine(
    std::vector<StepChunk> chunks, std::uint32_t worker, std::uint64_t incarnation,
    std::uint32_t window, std::vector<std::uint32_t> first_chunks, const std::string& codec,
    std::uint32_t int8_block, double topk_ratio, const std::optional<std::string>& answer_codec,
    const py::buffer& memory, std::pair<std::size_t, std::size_t> slabs,
    std::optional<std::size_t> outbox, std::optional<std::size_t> states,
    const py::buffer& residual) {
  std::optional<WireCodec> answer;
  if (answer_codec) answer = require_codec("answer_codec", *answer_codec);
  return std::make_unique<OwningStepEngine>(
      std::move(chunks), StepMember{worker, incarnation, window, std::move(first_chunks)},
      EncodingSettings{require_codec("codec", codec), int8_block, topk_ratio, answer}, memory,
      slabs, outbox, states, residual);
}

// A binding for a method that takes no buffers.
template <typename Result, typename... Args>
auto in_turn(Result (StepEngine::*method)(Args...)) {
  return [method](OwningStepEngine& self, Args... args) -> Result {
    return (self.engine().*method)(args...);
  };
}

template <typename Result, typename... Args>
auto in_turn(Result (StepEngine::*method)(Args...) const) {
  return [method](OwningStepEngine& self, Args... args) -> Result {
    return (self.engine().*method)(args...);
  };
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> newest(OwningStepEngine& self) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> told;
  for (const Newest& chunk : self.engine().newest()) told.emplace_back(chunk.version, chunk.step);
  return told;
}

}  // namespace

void register_step_engine(py::module_& m) {
  py::class_<StepChunk>(m, "StepChunk", "A chunk as a worker sees it.")
      .def(
          py::init(&make_chunk), py::arg("start"), py::arg("values"), py::arg("dtype"),
          py::arg("kind"), py::arg("pieces"),
          R"(start: the offset of its first byte in a slab. pieces: slot, offset of the first byte in a
slab and number of values of each slot's part in it.)");

  py::class_<StepEnd>(m, "StepEnd", "What the answers to a step said, the largest over all.")
      .def_readonly("version", &StepEnd::version)
      .def_readonly("lag", &StepEnd::lag)
      .def_readonly("staleness", &StepEnd::staleness);

  py::class_<StepNotice>(m, "StepNotice", R"(An answer that the engine does not deal with alone.

kind: "look", see whether the connection is new; "refused", an error of the server, or an answer
that does not fit what was asked, as code, text and clock say; "other", leash.ps.wire reads it.)")
      .def_readonly("kind", &StepNotice::kind)
      .def_property_readonly("code", [](const StepNotice& self) { return self.refusal.code; })
      .def_property_readonly("text", [](const StepNotice& self) { return self.refusal.text; })
      .def_property_readonly("clock", [](const StepNotice& self) { return self.refusal.clock; });

  py::class_<OwningStepEngine> engine(m, "StepEngine", R"(A worker's side of the data connections.

It says which request goes next to each shard, what an answer means, and what is sent again over a
new connection. It never waits and knows no sockets: a driver carries what `next` gives, hands what
comes to `receive`, and tells of connections. It belongs to one thread at a time.)");

  engine
      .def(
          py::init(&make_engine), py::arg("chunks"), py::kw_only(), py::arg("worker"),
          py::arg("incarnation"), py::arg("window"), py::arg("first_chunks"), py::arg("codec"),
          py::arg("int8_block"), py::arg("topk_ratio"),
          py::arg("answer_codec").none(true) = py::none(), py::arg("memory"), py::arg("slabs"),
          py::arg("outbox").none(true), py::arg("states").none(true) = py::none(),
          py::arg("residual"),
          R"(memory: holds two slabs, which begin at `slabs`, from `outbox` on room for payloads that a
codec wrote, and from `states` on what a server says of each chunk. residual: what int8 and topk left over, laid out
like a slab; empty for other codecs. The engine keeps and changes both. answer_codec: of parameters
that are answered with a payload, where that is another than the usual one.)")
      .def("begin", &OwningStepEngine::begin, py::arg("step"), py::arg("samples"),
           py::arg("gradients"), py::arg("parameters"), py::arg("absent") = py::none(),
           py::arg("held").none(true) = py::none(), py::arg("table") = 0,
           R"(Opens a step; what was open before is forgotten.

parameters: where the answers go; may be gradients. absent: a collection of slots without gradient,
which `ready` asks. held: the parameters that the worker has.)")
      .def("pull", &OwningStepEngine::pull, py::arg("headers"), py::arg("parameters"),
           "Pulls every chunk; headers has a header for each.")
      .def("tell", &OwningStepEngine::tell, py::arg("headers"), py::arg("values"),
           py::arg("number") = 0, "Sends every chunk of values, to be answered by `ok`.")
      .def("set_options", &OwningStepEngine::set_options, py::arg("number"), py::arg("header"),
           py::arg("payload"), "Sends options to every shard before the pushes of the open step.")
      .def("ready", &OwningStepEngine::ready, py::arg("first_ready"),
           R"(The gradients from this chunk to the last are complete.

ValueError if a push cannot name the slots of a chunk that have no gradient.)")
      .def("attach", &OwningStepEngine::attach, py::arg("write"),
           R"(Asks every shard to map this worker's memory.

write: makes the header of an `attach` to a shard, of a number.)")
      .def("settle_written", in_turn(&StepEngine::settle_written),
           R"(The server has died: takes for answered what it has written into the segment.

Returns how many chunks of the open step are lost, since they were being written.)")
      .def(
          "rejoin", &OwningStepEngine::rejoin, py::arg("incarnation"), py::arg("table"),
          py::arg("write"),
          R"(Has what has no answer go again, under another incarnation; settle_written() comes first.

table: the number of the options. write: as attach() takes it.)")
      .def("keep_attached", in_turn(&StepEngine::keep_attached),
           "From now on pushes carry no payloads, and every new connection attaches again.");

  engine
      .def(
          "next", &OwningStepEngine::next, py::arg("shard"), py::arg("most") = kNoLimit,
          R"(The header and payload, or None in its place, of the message that goes next to a shard.

None if none may go. A new request goes while fewer than `most` and the window are in flight. It
counts as sent then.)")
      .def("not_sent", in_turn(&StepEngine::not_sent), py::arg("shard"),
           "The socket has not taken what next() has just given for this shard: it goes again.")
      .def("receive", &OwningStepEngine::receive, py::arg("shard"), py::arg("frames"),
           "Takes an answer, header first. None if it was dealt with, or rightly ignored.")
      .def("attached", in_turn(&StepEngine::attached), py::arg("shard"), py::arg("number"),
           "The answer to an `attach` came; returns whether it is the one to attach().")
      .def("options_set", in_turn(&StepEngine::options_set), py::arg("shard"), py::arg("number"),
           "The answer to options came.")
      .def("connected", in_turn(&StepEngine::connected), py::arg("shard"),
           "A new connection stands: what has no answer goes again.")
      .def("lost", in_turn(&StepEngine::lost), py::arg("shard"));

  engine
      .def("is_attaching", in_turn(&StepEngine::is_attaching), py::arg("shard"),
           "Whether the newest `attach` to this shard has no answer yet.")
      .def("is_idle", in_turn(&StepEngine::is_idle), py::arg("shard"),
           "Whether nothing waits to be sent or answered.")
      .def("awaits_last", in_turn(&StepEngine::awaits_last), py::arg("shard"),
           "Whether one more answer leaves nothing to do.")
      .def_property_readonly("is_done", in_turn(&StepEngine::is_done))
      .def_property_readonly("is_attached", in_turn(&StepEngine::is_attached))
      .def_property_readonly("shards", in_turn(&StepEngine::shards))
      .def_property_readonly("version", in_turn(&StepEngine::version),
                             "The largest version of a chunk, of the parameters that came last.")
      .def_property_readonly("newest", newest,
                             R"(What the newest answer with a chunk's parameters said, by chunk.

A pair: the chunk's version, and the step of the push that was answered, 0 for a pull.)")
      .def("finish", &OwningStepEngine::finish, "Closes a step all of whose answers are here.")
      .def("forget", &OwningStepEngine::forget,
           "Drops what is queued and in flight; answers that still come are ignored.");
}

}  // namespace leash::bindings
