#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/choices.h"
#include "bindings/register.h"
#include "bindings/shared_engine.h"
#include "bindings/shared_shard.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

std::unique_ptr<SharedEngine> make_engine(SharedShard& shard, std::size_t slab_nbytes,
                                          std::uint32_t first_chunk,
                                          std::vector<std::size_t> starts,
                                          std::vector<std::string> slot_names,
                                          Nonfinite nonfinite) {
  if (starts.size() != shard.locked([](const Shard& core) { return core.chunks(); })) {
    throw std::invalid_argument("starts: expected a place for each chunk of the shard");
  }
  return std::make_unique<SharedEngine>(
      shard, ModelMap{slab_nbytes, first_chunk, std::move(starts), std::move(slot_names)},
      nonfinite);
}

}  // namespace

void register_shard_engine(py::module_& m) {
  py::class_<MessageMemory>(m, "MessageMemory", py::buffer_protocol())
      .def_buffer([](const MessageMemory& self) {
        return py::buffer_info(reinterpret_cast<std::uint8_t*>(self.memory.get()->data()),
                               static_cast<py::ssize_t>(self.memory.get()->nbytes()));
      });

  py::enum_<RecordKind>(m, "RecordKind")
      .value("PUSH", RecordKind::kPush)
      .value("REPLY", RecordKind::kReply)
      .value("DUPLICATE", RecordKind::kDuplicate)
      .value("NONFINITE", RecordKind::kNonfinite)
      .value("OPTIONS_DIFFER", RecordKind::kOptionsDiffer);
  py::class_<Record>(m, "Record", "One thing that happened at a shard, for metrics and events.")
      .def_readonly("kind", &Record::kind)
      .def_readonly("at_s", &Record::at_s)
      .def_readonly("worker", &Record::worker)
      .def_readonly("chunk", &Record::chunk)
      .def_readonly("step", &Record::step)
      .def_readonly("samples", &Record::samples)
      .def_readonly("lag", &Record::lag)
      .def_readonly("staleness", &Record::staleness)
      .def_readonly("dropped", &Record::dropped)
      .def_readonly("slot", &Record::slot)
      .def_readonly("other", &Record::other);
  py::class_<EngineCounts>(m, "EngineCounts", "What was counted of a shard's messages.")
      .def_readonly("replies", &EngineCounts::replies)
      .def_readonly("staleness_sum", &EngineCounts::staleness_sum)
      .def_readonly("max_staleness", &EngineCounts::max_staleness)
      .def_readonly("max_lag", &EngineCounts::max_lag)
      .def_readonly("duplicates", &EngineCounts::duplicates)
      .def_readonly("nonfinite_chunks", &EngineCounts::nonfinite_chunks)
      .def_readonly("bytes_pushed", &EngineCounts::bytes_pushed)
      .def_readonly("bytes_answered", &EngineCounts::bytes_answered)
      .def_readonly("dropped", &EngineCounts::dropped)
      .def_readonly("refusals", &EngineCounts::refusals, "By code.");

  py::class_<SharedEngine>(m, "ShardEngine", R"(A shard's part in the protocol, without sockets.

It takes the pushes of the workers that were admitted. While it is used, nobody else pushes to the
shard, pulls from it for a worker, or has a worker leave. For one thread.)")
      .def(py::init(&make_engine), py::arg("shard"), py::kw_only(), py::arg("slab_nbytes"),
           py::arg("first_chunk"), py::arg("starts"), py::arg("slot_names"), py::arg("nonfinite"),
           py::keep_alive<1, 2>(),
           R"(slab_nbytes: of the whole model. starts: where each of the shard's chunks begins in a
slab. slot_names: of the whole model's slots. nonfinite: what the shard was made with.)")
      .def(
          "admit",
          [](SharedEngine& self, std::uint32_t worker, std::uint64_t incarnation,
             std::string_view key) { self.engine().admit(worker, incarnation, key); },
          py::arg("worker"), py::arg("incarnation"), py::arg("key") = "",
          "Takes this worker's pushes from now on, if they are of this incarnation and come by "
          "this key.")
      .def("expel", &SharedEngine::expel, py::arg("worker"),
           "Forgets a worker: its segment, options and requests. Others still wait for it.")
      .def("leave", &SharedEngine::leave, py::arg("worker"), py::arg("now_s"),
           "Has nobody wait for a worker, which may not have been admitted. KeyError if it is not "
           "live.")
      .def("set_rule", &SharedEngine::set_rule, py::arg("rule"), py::arg("now_s"))
      .def("give_up_rounds", &SharedEngine::give_up_rounds, py::arg("now_s"),
           R"(Ends a stall under a rule that gathers rounds: gives all of them up, and sends the
answers that waited. What was sent for them, and the rest of the steps that workers are in, is
dropped.)")
      .def("refuse_pushes", &SharedEngine::refuse_pushes, py::arg("code"), py::arg("text"),
           "Refuses every push from now on, with an error of this code; an empty one lets them "
           "come. ValueError for a code that no refusal of an engine has.")
      .def("stop", &SharedEngine::stop, py::arg("reason"),
           "Answers all requests that wait with `stopping`, and refuses pushes from now on.")
      .def("receive", &SharedEngine::receive, py::arg("frames"), py::arg("now_s"),
           py::arg("key") = "",
           R"(Handles a push, given as route, header and, if it has one, payload.

The key is that of its sender, as the socket knows it; empty without keys.
The parameters that answer it may be written into the payload; of a read-only one it makes a copy.
Returns False, and has changed nothing, if it is not a push that it takes: another verb, a header
that is not well-formed, a sender that does not take part or has another key.)")
      .def("attach", &SharedEngine::attach, py::arg("worker"), py::arg("route"), py::arg("memory"),
           py::arg("ring_route") = py::bytes(),
           R"(Takes this worker's pushes without a payload from its segment, for this route.

ring_route: of the ring in the segment, by which they may come too; empty if there is none. ValueError unless the memory has the size of a segment of this model.)")
      .def(
          "is_attached",
          [](SharedEngine& self, std::uint32_t worker) {
            return self.engine().is_attached(worker);
          },
          py::arg("worker"))
      .def(
          "note_options",
          [](SharedEngine& self, std::uint32_t worker, std::uint64_t number, std::uint64_t table) {
            self.engine().note_options(worker, number, table);
          },
          py::arg("worker"), py::arg("number"), py::arg("table"),
          "Notes which table of options the shard applies for this worker: its number, and one "
          "that equal tables of several workers share.")
      .def("pull", &SharedEngine::pull, py::arg("route"), py::arg("chunk"),
           py::arg("worker").none(true), py::arg("codec"), py::arg("now_s"),
           "Answers a pull of a chunk that has values; worker None is an observer.")
      .def("take_outgoing", &SharedEngine::take_outgoing,
           R"(The messages that are to be sent since the last call, in their order.

Each is route, header, payload or None, and the worker that it answers, which is 0 of an error.)")
      .def_property_readonly(
          "has_news", [](SharedEngine& self) { return self.engine().has_news(); },
          "Whether records, counts or signs of life have come up since they were taken.")
      .def("take_records", &SharedEngine::take_records, "What happened since the last call.")
      .def(
          "take_counts", [](SharedEngine& self) { return self.engine().take_counts(); },
          "What was counted since the last call.")
      .def(
          "take_heard", [](SharedEngine& self) { return self.engine().take_heard(); },
          "The workers that were heard since the last call, and when.")
      .def_property_readonly("parked", [](SharedEngine& self) { return self.engine().parked(); })
      .def_property_readonly(
          "waiting", [](SharedEngine& self) { return self.engine().waiting(); },
          "The workers that wait for an answer, in ascending order.");
}

}  // namespace leash::bindings
