#include "lane/engines/shard_lane.h"

#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings/lane/socket_intake.h"
#include "bindings/register.h"
#include "bindings/shared_engine.h"
#include "lane/sources.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using lane::Clock;

// A lane with what its thread waits for beside the data socket, which is the first of its sources.
class PollingLane {
 public:
  PollingLane(Intake& intake, bool knows_senders, std::size_t burst)
      : intake_(intake),
        burst_(burst),
        lane_(intake.zmq(), intake.socket(), intake.open(), knows_senders),
        sources_(intake.zmq()),
        process_(::getpid()) {
    sources_.add(intake.socket());
  }
  ~PollingLane() { delete_idle(); }

  void add_socket(std::uintptr_t socket) { sources_.add(reinterpret_cast<void*>(socket)); }
  void add_fd(int fd) { sources_.add(fd); }
  void remove(std::size_t place) {
    if (place == 0 || place >= sources_.size()) throw std::out_of_range("place");
    sources_.remove(place);
  }

  // Moves messages until others have something to do, or the time is over.
  std::vector<std::size_t> poll(const py::object& takes, double timeout_s, std::size_t most,
                                bool takes_data) {
    SharedEngine* const engine = takes.is_none() ? nullptr : takes.cast<SharedEngine*>();
    intake_.open();  // throws where it is closed
    if (::getpid() != process_) throw std::runtime_error("the lane is another process's");
    std::vector<std::size_t> ready;
    {
      const py::gil_scoped_release release;
      run(engine, timeout_s, most, takes_data, ready);
    }
    delete_idle();
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    return ready;
  }

  py::object take_rare() {
    std::unique_ptr<lane::PayloadBuffer> payload = lane_.take_rare();
    py::object view = py::none();
    if (payload != nullptr) view = view_of(payload.release());
    return py::make_tuple(intake_.route(), intake_.header(), view, lane_.has_surplus(),
                          lane_.sender(), intake_.open().is_known());
  }

  std::vector<std::uint32_t> take_unreading() { return lane_.take_unreading(); }

 private:
  void run(SharedEngine* engine, double timeout_s, std::size_t most, bool takes_data,
           std::vector<std::size_t>& ready) {
    const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(timeout_s));
    while (true) {
      auto turn = lane::ShardLane::Turn::kIdle;
      if (takes_data) {
        turn = serve(engine, std::min(most, burst_));
        if (turn == lane::ShardLane::Turn::kRare) {
          ready.push_back(0);
          return;
        }
        most -= std::min(most, burst_);
      }
      const auto left = until - Clock::now();
      const bool is_over = left <= Clock::duration::zero() || most == 0;
      const bool waits = turn == lane::ShardLane::Turn::kIdle && !is_over;
      const long wait_ms =
          waits ? std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1 : 0;
      if (!sources_.wait(wait_ms)) return;
      for (std::size_t place = 1; place < sources_.size(); ++place) {
        if (sources_.is_ready(place)) ready.push_back(place);
      }
      if (!ready.empty() || is_over) return;
    }
  }

  lane::ShardLane::Turn serve(SharedEngine* engine, std::size_t most) {
    if (engine == nullptr) return lane_.serve(nullptr, most);
    return engine->call_without_gil([&] { return lane_.serve(&engine->engine(), most); });
  }

  // With the GIL, which to delete what came from Python needs.
  void delete_idle() {
    for (Buffer* buffer : lane_.take_idle()) delete buffer;
  }

  Intake& intake_;
  const std::size_t burst_;
  lane::ShardLane lane_;
  lane::Sources sources_;
  const int process_;
};

}  // namespace

void register_shard_lane(py::module_& m) {
  py::class_<PollingLane>(m, "ShardLane",
                          R"(Moves messages between a data socket and a shard's engine.

It takes no Python and no GIL while it does. For the thread that uses the socket.)")
      .def(py::init<Intake&, bool, std::size_t>(), py::arg("intake"), py::kw_only(),
           py::arg("knows_senders"), py::arg("burst"), py::keep_alive<1, 2>(),
           R"(intake: of the data socket; it has begun. knows_senders: whether the socket lets in
those alone who have a key. burst: how many messages it takes in a row before other sources have
their turn.)")
      .def("add_socket", &PollingLane::add_socket, py::arg("socket"),
           "Waits for messages of this socket too, given by its handle. It is the last place.")
      .def("add_fd", &PollingLane::add_fd, py::arg("fd"),
           "Waits for this descriptor too. It is the last place.")
      .def("remove", &PollingLane::remove, py::arg("place"),
           "Waits no longer for what is at this place, from 1; later places move up.")
      .def("poll", &PollingLane::poll, py::arg("engine"), py::arg("timeout_s"), py::arg("most"),
           py::arg("takes_data"),
           R"(Moves messages until something else is due; returns the places that are ready.

engine: that takes the messages; None leaves all of them. timeout_s: at most; it also returns after
a signal. most: how many messages. takes_data: whether messages of the data socket are taken at all.
Place 0 is ready if a message is left for `take_rare`, behind which all others wait.)")
      .def("take_rare", &PollingLane::take_rare,
           R"(The message that the engine has left.

Route, header, payload or None, whether it had further frames, the key of its sender, and whether
that is known as a member.)")
      .def("take_unreading", &PollingLane::take_unreading,
           "The workers that have left no room for their answers since the last call.");
}

}  // namespace leash::bindings
