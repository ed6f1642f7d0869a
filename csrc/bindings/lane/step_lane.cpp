#include "lane/engines/step_lane.h"

#include <pybind11/stl.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/owning_step_engine.h"
#include "bindings/register.h"
#include "lane/libzmq.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using Stop = lane::StepLane::Stop;

// Why a call has ended before all was done.
struct StepStop {
  bool is_quiet = true;
  std::size_t shard = 0;
  StepNotice notice = {};
  py::bytes header = {};
  std::size_t payloads = 0;
  std::size_t payload_nbytes = 0;
};

void* handle(std::uintptr_t socket) { return reinterpret_cast<void*>(socket); }

std::vector<void*> handles(const std::vector<std::uintptr_t>& sockets) {
  std::vector<void*> all;
  for (const std::uintptr_t socket : sockets) all.push_back(handle(socket));
  return all;
}

// A lane between a worker's engine and pyzmq's sockets, whose handles are given as numbers.
class WorkerLane {
 public:
  WorkerLane(const std::string& library, OwningStepEngine& engine,
             const std::vector<std::uintptr_t>& sockets, long look_ms, double spin_s,
             std::size_t copy_below_nbytes)
      : engine_(engine),
        lane_(
            lane::find_libzmq(library), handles(sockets), {look_ms, spin_s, copy_below_nbytes},
            [&engine](const PayloadPlace& place) { return engine.bytes_of(place); }, engine.loan()),
        process_(::getpid()) {
    if (sockets.size() != engine.engine().shards()) {
      throw std::invalid_argument("sockets: expected one for each shard");
    }
  }

  void replace(std::size_t shard, std::uintptr_t socket) { lane_.replace(shard, handle(socket)); }

  std::optional<StepStop> advance() {
    return run([this](StepEngine& engine) { return lane_.advance(engine); });
  }
  std::optional<StepStop> finish(std::size_t at_once) {
    return run([&](StepEngine& engine) { return lane_.finish(engine, at_once); });
  }

  void use_ring(std::size_t shard, std::size_t place, int pipe) {
    if (shard >= kRingShards) throw std::invalid_argument("shard: expected one that has a ring");
    lane_.use_ring(engine_.engine(), shard, engine_.memory(place, kRingsNbytes), pipe);
  }

  double take_waited() { return lane_.take_waited(); }

 private:
  template <typename Move>
  std::optional<StepStop> run(Move&& move) {
    if (::getpid() != process_) throw std::runtime_error("the lane is another process's");
    while (true) {
      switch (engine_.call_without_gil(move)) {
        case Stop::kDone:
          return std::nullopt;
        case Stop::kAnswer:
          return answer();
        case Stop::kAttach:
          send_attach();
          break;
        case Stop::kQuiet:
          return StepStop{};
        case Stop::kSignal:
          if (PyErr_CheckSignals() != 0) throw py::error_already_set();
          break;
      }
    }
  }

  void send_attach() {
    const std::string header = engine_.attach_header(lane_.shard(), lane_.attach_number());
    lane_.send_header(lane_.shard(), std::as_bytes(std::span(header)));
  }

  StepStop answer() {
    const std::span<const std::byte> header = lane_.header();
    StepStop stop{.is_quiet = false,
                  .shard = lane_.shard(),
                  .header = py::bytes(reinterpret_cast<const char*>(header.data()), header.size()),
                  .payloads = lane_.payloads(),
                  .payload_nbytes = lane_.payload_nbytes()};
    if (const auto notice = engine_.notice_of(lane_.received())) stop.notice = *notice;
    return stop;
  }

  OwningStepEngine& engine_;
  lane::StepLane lane_;
  const int process_;
};

}  // namespace

void register_step_lane(py::module_& m) {
  py::class_<StepStop>(m, "StepStop", R"(Why a lane's call has ended before all was done.

is_quiet: no answer has come for `look_ms`, or a connection is gone. Otherwise `shard` has sent an
answer that the engine does not deal with alone, as `notice` says. header, payloads, payload_nbytes:
of that answer, how many frames came behind its header, and the size of the first of them.)")
      .def_readonly("is_quiet", &StepStop::is_quiet)
      .def_readonly("shard", &StepStop::shard)
      .def_readonly("notice", &StepStop::notice)
      .def_readonly("header", &StepStop::header)
      .def_readonly("payloads", &StepStop::payloads)
      .def_readonly("payload_nbytes", &StepStop::payload_nbytes);

  py::class_<WorkerLane>(m, "StepLane", R"(Moves messages between a worker's engine and its sockets.

It does so without the GIL, and without Python but for what is rare. For the one thread that uses
the sockets, which outlive it.)")
      .def(py::init<const std::string&, OwningStepEngine&, const std::vector<std::uintptr_t>&, long,
                    double, std::size_t>(),
           py::arg("library"), py::arg("engine"), py::arg("sockets"), py::kw_only(),
           py::arg("look_ms"), py::arg("spin_s"), py::arg("copy_below_nbytes"),
           py::keep_alive<1, 3>(),
           R"(library: the path of what pyzmq has loaded, as of Intake. sockets: the handle of a
DEALER socket to each shard. look_ms: how long `finish` waits for an answer. spin_s: if answers have
come sooner than this, it spins for the last one. copy_below_nbytes: smaller payloads are copied, and
not sent from where they lie.)")
      .def("replace", &WorkerLane::replace, py::arg("shard"), py::arg("socket"),
           "Uses another socket for a shard.")
      .def("advance", &WorkerLane::advance,
           R"(Sends what the windows allow, and takes the answers that have come. Never waits.

Returns None, or why it has ended: call it again when that is dealt with.)")
      .def("finish", &WorkerLane::finish, py::arg("at_once"),
           R"(Sends all requests and takes each answer as it comes; returns as `advance` does.

at_once: how many requests may be in flight to a shard.)")
      .def("use_ring", &WorkerLane::use_ring, py::arg("shard"), py::kw_only(), py::arg("place"),
           py::arg("pipe"),
           R"(Sends by a shard's ring too from now on, until its connection is lost.

place: where the rings begin in the engine's memory. pipe: the descriptor by which the shard is woken.
It does nothing where a newer `attach` waits for its answer.)")
      .def("take_waited", &WorkerLane::take_waited,
           "How long `finish` has waited for answers since the last call, in seconds.");
}

}  // namespace leash::bindings
