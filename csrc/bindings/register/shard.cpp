#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/choices.h"
#include "bindings/register.h"
#include "bindings/shared_shard.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using MaybeWorker = std::optional<std::uint32_t>;

std::unique_ptr<SharedShard> make_shard(const std::vector<ChunkSpec>& chunks,
                                        const OptimizerOptions& options, const Rule& rule,
                                        Nonfinite nonfinite, bool scale_lr,
                                        const Schedule& schedule, std::uint32_t first_chunk,
                                        std::size_t threads, const StalenessRate& staleness_rate,
                                        const DelayCompensation& compensation) {
  return std::make_unique<SharedShard>(
      chunks, ShardOptions{options, rule, nonfinite, scale_lr, schedule, first_chunk, threads,
                           staleness_rate, compensation});
}

bool init(SharedShard& self, std::uint32_t chunk, const py::buffer& payload) {
  const BufferView values = self.view(chunk, payload, Access::kRead);
  return self.locked([&](Shard& shard) { return shard.init(chunk, values.data()); });
}

std::pair<std::uint64_t, std::vector<Reply>> pull(SharedShard& self, std::uint32_t chunk,
                                                  MaybeWorker worker, const py::buffer& out,
                                                  const std::string& codec) {
  PullResult pulled = self.pull(chunk, worker, out, value_in(kCodecs, "codec", codec));
  return {pulled.version, std::move(pulled.replies)};
}

PushResult push(SharedShard& self, std::uint32_t chunk, std::uint32_t worker, std::uint64_t step,
                std::uint64_t samples, const std::optional<py::buffer>& payload, bool wants_payload,
                const std::string& codec, const std::optional<py::buffer>& answer, double now_s,
                const py::bytes& absent) {
  return self.push(chunk, worker, step, samples, payload, wants_payload,
                   value_in(kCodecs, "codec", codec), answer, now_s, absent);
}

std::optional<std::size_t> publish(SharedShard& self, std::uint32_t chunk,
                                   const py::buffer& payload) {
  const BufferView values = self.view(chunk, payload, Access::kRead);
  return self.locked([&](Shard& shard) { return shard.publish(chunk, values.data()); });
}

std::optional<std::size_t> heal(SharedShard& self, std::uint32_t chunk, const py::buffer& payload,
                                std::uint64_t version) {
  const BufferView values = self.view(chunk, payload, Access::kRead);
  return self.locked([&](Shard& shard) { return shard.heal(chunk, values.data(), version); });
}

void set_options(SharedShard& self, std::uint32_t worker, std::vector<OptimizerOptions> groups,
                 std::vector<std::uint32_t> group_of_slot,
                 const std::vector<std::pair<double, double>>& clamps,
                 const std::vector<double>& max_norms) {
  OptionsTable table{.groups = {}, .group_of_slot = std::move(group_of_slot)};
  for (OptimizerOptions& options : groups) table.groups.push_back({std::move(options)});
  if (!clamps.empty() && clamps.size() != groups.size()) {
    throw std::invalid_argument("clamps: expected a range for each group, or none");
  }
  for (std::size_t i = 0; i < clamps.size(); ++i) {
    std::tie(table.groups[i].least, table.groups[i].most) = clamps[i];
  }
  if (!max_norms.empty() && max_norms.size() != groups.size()) {
    throw std::invalid_argument("max_norms: expected a number for each group, or none");
  }
  for (std::size_t i = 0; i < max_norms.size(); ++i) table.groups[i].max_norm = max_norms[i];
  self.locked([&](Shard& shard) { shard.set_options(worker, std::move(table)); });
}

void state(SharedShard& self, std::uint32_t chunk, const std::string& name, const py::buffer& out) {
  const BufferView values = self.view(chunk, out, Access::kWrite);
  self.locked([&](Shard& shard) { shard.state(chunk, name, values.data()); });
}

void load_state(SharedShard& self, std::uint32_t chunk, const std::string& name,
                const py::buffer& payload) {
  const BufferView values = self.view(chunk, payload, Access::kRead);
  self.locked([&](Shard& shard) { shard.load_state(chunk, name, values.data()); });
}

std::vector<std::string> state_names(SharedShard& self) {
  return self.locked([](const Shard& shard) {
    const auto names = shard.state_names();
    return std::vector<std::string>(names.begin(), names.end());
  });
}

// What the snapshot has of a chunk beside its numbers: version, smallest clock, rank and clock of
// each live worker, updates of each slot, whether the optimizer has buffers.
using Moment =
    std::tuple<std::uint64_t, std::uint64_t, std::vector<std::pair<std::uint32_t, std::uint64_t>>,
               std::vector<std::uint64_t>, bool>;

std::vector<Moment> open_snapshot(SharedShard& self) {
  std::vector<ChunkMoment> moments =
      self.locked([](Shard& shard) { return shard.open_snapshot(); });
  std::vector<Moment> told;
  told.reserve(moments.size());
  for (ChunkMoment& moment : moments) {
    told.emplace_back(moment.version, moment.minimum, std::move(moment.clocks),
                      std::move(moment.updates), moment.has_state);
  }
  return told;
}

void read_snapshot(SharedShard& self, std::uint32_t chunk, std::size_t array, std::size_t begin,
                   const py::buffer& out) {
  const BufferView values(out, Access::kWrite, "out");
  self.locked([&](const Shard& shard) {
    shard.read_snapshot(chunk, array, begin, {values.data(), values.nbytes()});
  });
}

// A binding for a method that takes no buffers: it calls the method with the lock.
template <typename Result, typename... Args>
auto under_lock(Result (Shard::*method)(Args...)) {
  return [method](SharedShard& self, Args... args) -> Result {
    return self.locked([&](Shard& shard) { return (shard.*method)(args...); });
  };
}

template <typename Result, typename... Args>
auto under_lock(Result (Shard::*method)(Args...) const) {
  return [method](SharedShard& self, Args... args) -> Result {
    return self.locked([&](const Shard& shard) { return (shard.*method)(args...); });
  };
}

}  // namespace

void register_shard(py::module_& m) {
  py::class_<SharedShard> shard(m, "Shard", R"(A run of chunks: parameters, optimizer state, clocks.

Any thread may call it. A payload is any contiguous buffer of exactly the chunk's nbytes, read as
little-endian numbers of the chunk's dtype and never converted. Raises IndexError for a chunk
that the shard does not have, ValueError for a payload that does not fit; nothing has changed
then.)");

  shard
      .def(py::init(&make_shard), py::arg("chunks"), py::arg("options"), py::kw_only(),
           py::arg("rule"), py::arg("nonfinite"), py::arg("scale_lr") = false,
           py::arg("schedule") = Schedule{}, py::arg("first_chunk") = 0, py::arg("threads") = 1,
           py::arg("staleness_rate") = StalenessRate{},
           py::arg("compensation") = DelayCompensation{},
           R"(rule: who waits for whom, until set_rule() replaces it. scale_lr: apply a mean of k
gradients with k times the learning rate (Goyal et al. 2017, arXiv:1706.02677, section 2.1).
schedule: the learning rate by the chunk's version. first_chunk: the number that the first of
these chunks has in the whole model; every method numbers chunks in this way. threads: how many
share the work on a large chunk; they change no bit of a result. staleness_rate: the factor of a
stale push's learning rate. compensation: only for SGD, and only if every gradient is an update;
costs one copy of the parameters for each live worker.)")
      .def_property_readonly("chunks", under_lock(&Shard::chunks))
      .def_property_readonly("initialized_chunks", under_lock(&Shard::initialized_chunks))
      .def("initialized", under_lock(&Shard::initialized), py::arg("chunk"))
      .def("init", init, py::arg("chunk"), py::arg("payload"),
           "Copies a chunk's first values. Changes nothing, and returns False, if it has values "
           "already.")
      .def("pull", pull, py::arg("chunk"), py::arg("worker").none(true), py::arg("out"),
           py::arg("codec") = "raw",
           R"(Writes the parameters into out, as 'raw', 'bf16' or 'f16', and returns their version.

The version becomes the base of the worker's staleness if it is live. So, where a bound counts
versions, others may have waited for this pull: the answers that go out now are returned beside the
version. ValueError if the chunk has no values yet.)")
      .def("set_lr", under_lock(&Shard::set_lr), py::arg("lr"));

  shard
      .def("join", under_lock(&Shard::join), py::arg("worker"), py::arg("clock"),
           "Joins every chunk or, with a ValueError, none.")
      .def("leave", &SharedShard::leave, py::arg("worker"),
           R"(Forgets the worker, its waiting answers and its gradients in means.

Returns the answers to others that waited only for it. KeyError if it is not live.)")
      .def("workers", under_lock(&Shard::workers), "The live workers, in ascending order.")
      .def("first_step", under_lock(&Shard::first_step),
           "A step that is new on every chunk: the largest minimum, plus one.")
      .def("clock", under_lock(&Shard::clock), py::arg("chunk"), py::arg("worker"),
           "KeyError if the worker is not live.")
      .def("minimum", under_lock(&Shard::minimum), py::arg("chunk"))
      .def("version", under_lock(&Shard::version), py::arg("chunk"), "The count of updates.");

  shard
      .def("push", push, py::arg("chunk"), py::arg("worker"), py::arg("step"), py::arg("samples"),
           py::arg("payload").none(true), py::arg("wants_payload"), py::kw_only(),
           py::arg("codec") = "raw", py::arg("answer").none(true) = py::none(),
           py::arg("now_s") = 0.0, py::arg("absent") = py::bytes(),
           R"(Applies a push exactly once and returns every answer that may go out now.

codec: the payload's, 'raw' or, for f32 parameters, 'bf16', 'f16', 'int8' or 'topk'. If
wants_payload, the chunk's parameters are written before the Reply for this worker and step is
returned, by this call or a later one: raw to `answer` or, without one, to the payload in the
payload's codec ('int8' and 'topk' need `answer`). The shard keeps both buffers until it needs
them no longer. now_s: when the push came, in seconds of any clock that does not go back; only
dynamic bounds read it. absent: the slots for which there is no gradient, bit i % 8 of byte i / 8
for the i-th slot that has a part in the chunk; they are not updated, and count as zeros in a mean
for which others have a gradient. Without payload all are absent.)")
      .def("unpark", &SharedShard::unpark, py::arg("chunk"), py::arg("worker"),
           "Forgets the answers that wait for a worker; its gradients stay in their means.")
      .def(
          "set_options", set_options, py::arg("worker"), py::arg("groups"),
          py::arg("group_of_slot"), py::arg("clamps") = std::vector<std::pair<double, double>>(),
          py::arg("max_norms") = std::vector<double>(),
          R"(Gives a worker options of its own for groups of slots, by which its pushes are applied.

A mean is applied by those of the lowest worker that has a part in it. group_of_slot: an index into
groups for each slot of the whole model. clamps: for each group the range into which every value is
brought after an update. max_norms: for each group the 2-norm down to which every row is scaled
after that; infinity for none. ValueError if the options are another optimizer's than the shard's,
or need a buffer that the shard's do not have, or if rows of a slot that such a norm is for lie in
two chunks; KeyError if the worker is not live.)")
      .def("publish", publish, py::arg("chunk"), py::arg("payload"),
           R"(Replaces a chunk's values, as an update in which the optimizer has no part.

Returns the index of the first value that is not finite, and changes nothing then.)")
      .def(
          "heal", heal, py::arg("chunk"), py::arg("payload"), py::arg("version"),
          R"(Puts values of another server of the run, with their version, in place of a chunk's own.

The optimizer's buffers and counts stay. Returns the index of the first value that is not finite,
and changes nothing then. ValueError once a worker takes part.)")
      .def("skip_to", under_lock(&Shard::skip_to), py::arg("chunk"), py::arg("step"),
           "Counts the steps of all workers up to this one as taken on a chunk that has them.")
      .def("take_overflows", under_lock(&Shard::take_overflows),
           "The means of which a block was left out since the last call.")
      .def("set_rule", &SharedShard::set_rule, py::arg("rule"),
           R"(Replaces the rule, and returns the answers that the new one lets go.

Gradients that wait for a mean are applied one by one, in order of arrival, if the new rule takes no
means; otherwise they wait for its means.)")
      .def("give_up_rounds", &SharedShard::give_up_rounds,
           R"(Gives up all rounds, and returns the answers that waited for them.

What was sent for them is dropped, and so is the rest of the step that each worker is in. Does
nothing under a rule that gathers no rounds.)")
      .def("parked", under_lock(&Shard::parked), "How many answers wait, on all chunks.")
      .def("stats", under_lock(&Shard::stats));

  shard
      .def("state_names", state_names,
           R"(The optimizer's buffers, under torch's names; SGD's is 'momentum'.)")
      .def("has_state", under_lock(&Shard::has_state), py::arg("chunk"),
           "True from the first update on, if the optimizer has buffers for this chunk.")
      .def("state", state, py::arg("chunk"), py::arg("name"), py::arg("out"),
           "Copies a buffer of the optimizer into out; before the first update, what it begins "
           "with.")
      .def("load_state", load_state, py::arg("chunk"), py::arg("name"), py::arg("payload"),
           "Sets a buffer of the optimizer. ValueError if it has none of this name, or for values"
           " that no optimizer leaves there.")
      .def("open_snapshot", open_snapshot,
           R"(Opens the snapshot: read_snapshot() gives the numbers of now, whatever changes.

A chunk is copied before it changes, unless it was released; so the copies take at most as much
memory as the shard. A snapshot that was open is closed. Returns for each chunk its version, the
smallest clock, rank and clock of each live worker, the updates that each slot has seen, and whether
the optimizer has buffers for it. ValueError if a chunk has no values.)")
      .def("read_snapshot", read_snapshot, py::arg("chunk"), py::arg("array"), py::arg("begin"),
           py::arg("out"),
           R"(Copies bytes of a chunk from `begin` on into out, as many as fit there.

array: 0 for the parameters, i + 1 for the optimizer's buffer state_names()[i]. ValueError if no
snapshot is open, or the chunk was released, or has no such bytes; MemoryError if there was no
memory for a copy.)")
      .def("release_snapshot", under_lock(&Shard::release_snapshot), py::arg("chunk"),
           "Lets go of a chunk of the snapshot that has been read.")
      .def("close_snapshot", under_lock(&Shard::close_snapshot))
      .def_property_readonly("snapshot_nbytes", under_lock(&Shard::snapshot_nbytes),
                             "The memory of the copies that the snapshot keeps.")
      .def("set_version", under_lock(&Shard::set_version), py::arg("chunk"), py::arg("version"),
           R"(Sets the version at which an earlier run ended, the count of updates so far.

ValueError once a worker takes part.)")
      .def("updates", under_lock(&Shard::updates), py::arg("chunk"),
           "How many updates each slot that has a part in the chunk has seen.")
      .def("set_updates", under_lock(&Shard::set_updates), py::arg("chunk"), py::arg("updates"),
           "Sets these counts after set_version(), which sets them all to the version.");
}

}  // namespace leash::bindings
