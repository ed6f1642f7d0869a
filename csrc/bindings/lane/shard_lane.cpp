#include "lane/engines/shard_lane.h"

#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/buffer_view.h"
#include "bindings/lane/socket_intake.h"
#include "bindings/register.h"
#include "bindings/shared_engine.h"
#include "lane/sources.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

using lane::Clock;

// Who sleeps is woken by a pipe, which costs both sides as much as a small update.
constexpr Clock::duration kSpin = std::chrono::microseconds(50);
constexpr int kMostUnlooked = 16;

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

  // Takes over the descriptor.
  py::bytes open_ring(std::uint32_t worker, const py::buffer& segment, std::size_t place,
                      std::size_t shard, int pipe, const py::bytes& route, const std::string& key) {
    auto memory = std::make_unique<BufferView>(segment, Access::kWrite, "segment");
    if (shard >= kRingShards || place > memory->nbytes() ||
        memory->nbytes() - place < kRingsNbytes) {
      ::close(pipe);
      throw std::invalid_argument("segment: expected rings for this shard");
    }
    lane_.close_ring(worker);
    const std::string name = lane_.rings().open(worker, memory->data() + place, shard, pipe,
                                                std::string_view(route), key);
    segments_.insert_or_assign(worker, std::move(memory));
    return name;
  }
  void close_ring(std::uint32_t worker) {
    lane_.close_ring(worker);
    segments_.erase(worker);
  }
  // Returns whether the route is that of a ring.
  bool send_by_ring(const py::bytes& route, const py::bytes& header) {
    const std::string_view name(route), bytes(header);
    if (!lane::ServedRings::is_route(name)) return false;
    lane_.send_by_ring(name, std::as_bytes(std::span(bytes)));
    return true;
  }

  py::object take_rare() {
    std::unique_ptr<lane::PayloadBuffer> payload = lane_.take_rare();
    if (const lane::ServedRing* const ring = lane_.rare_ring()) {
      const std::span<const std::byte> header = ring->requests.header();
      return py::make_tuple(py::bytes(ring->socket_route),
                            py::bytes(reinterpret_cast<const char*>(header.data()), header.size()),
                            py::none(), false, ring->key, true, true);
    }
    py::object view = py::none();
    if (payload != nullptr) view = view_of(payload.release());
    return py::make_tuple(intake_.route(), intake_.header(), view, lane_.has_surplus(),
                          lane_.sender(), intake_.open().is_known(), false);
  }

  std::vector<std::uint32_t> take_unreading() { return lane_.take_unreading(); }

 private:
  void run(SharedEngine* engine, double timeout_s, std::size_t most, bool takes_data,
           std::vector<std::size_t>& ready) {
    const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(timeout_s));
    int unlooked = 0;  // turns since the other sources were looked at
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
      const bool has_rings = takes_data && engine != nullptr && !lane_.rings().is_empty();
      const bool is_idle = turn == lane::ShardLane::Turn::kIdle && !is_over;
      const bool comes_next = is_idle && has_rings && comes_soon();
      if (comes_next && ++unlooked < kMostUnlooked) continue;
      unlooked = 0;
      const bool waits = is_idle && !comes_next;
      const long wait_ms =
          waits ? std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1 : 0;
      sources_.set_own(has_rings ? lane_.rings().fd() : -1);
      if (!wait(wait_ms, takes_data, has_rings)) return;
      for (std::size_t place = 1; place < sources_.size(); ++place) {
        if (sources_.is_ready(place)) ready.push_back(place);
      }
      if (!ready.empty() || is_over) return;
    }
  }

  // Whether a request comes by a ring within the time for which it pays not to sleep: that was so
  // the last time.
  bool comes_soon() {
    idle_since_ = Clock::now();
    if (newest_wait_ > kSpin) return false;
    while (Clock::now() - idle_since_ < kSpin) {
      if (lane_.rings().has_come()) return note_wait();
    }
    return false;
  }
  bool note_wait() {
    newest_wait_ = Clock::now() - idle_since_;
    return true;
  }

  // While the data socket is not served, nothing that comes by it, or by a ring, ends the wait.
  bool wait(long wait_ms, bool takes_data, bool has_rings) {
    const std::size_t first = takes_data ? 0 : 1;
    if (wait_ms == 0 || !has_rings) return sources_.wait(wait_ms, first);
    lane_.rings().fall_asleep();
    const bool is_no_signal = sources_.wait(lane_.rings().has_come() ? 0 : wait_ms, first);
    lane_.rings().wake_up();
    if (lane_.rings().has_come()) note_wait();
    return is_no_signal;
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
  std::map<std::uint32_t, std::unique_ptr<BufferView>> segments_;  // of the workers with rings
  Clock::time_point idle_since_ = {};
  Clock::duration newest_wait_ = {};  // how long the newest request of a ring was waited for
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

Route, header, payload or None, whether it had further frames, the key of its sender, whether that
is known as a member, and whether the message came by a ring.)")
      .def(
          "open_ring", &PollingLane::open_ring, py::arg("worker"), py::arg("segment"),
          py::kw_only(), py::arg("place"), py::arg("shard"), py::arg("pipe"), py::arg("route"),
          py::arg("key"),
          R"(Serves a worker's ring in this memory, in place of the one that it had; returns its route.

place: where the rings begin. shard: whose of them; below 16. pipe: the descriptor by which the
worker wakes this side, which the lane closes. route, key: of the worker's connection.)")
      .def("close_ring", &PollingLane::close_ring, py::arg("worker"),
           "Serves a worker's ring no longer, if it has one.")
      .def("send_by_ring", &PollingLane::send_by_ring, py::arg("route"), py::arg("header"),
           "Sends a header by the ring with this route; returns whether the route is a ring's.")
      .def("take_unreading", &PollingLane::take_unreading,
           "The workers that have left no room for their answers since the last call.");
}

}  // namespace leash::bindings
