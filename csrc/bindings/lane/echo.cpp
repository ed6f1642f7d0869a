#include "lane/echo.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "bindings/buffer_view.h"
#include "bindings/lane/socket_intake.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

void serve_echo(Intake& intake) {
  lane::EchoServer server(intake.zmq(), intake.socket(), intake.open());
  while (true) {
    {
      const py::gil_scoped_release release;
      server.serve();
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

// Sends memory of Python's over a socket of pyzmq's, whose handle is given as a number.
class EchoingWorker {
 public:
  EchoingWorker(const std::string& library, std::uintptr_t socket, const py::buffer& memory,
                const lane::EchoSettings& settings)
      : memory_(std::make_unique<BufferView>(memory, Access::kWrite, "memory")),
        loan_(lane::Loan::make()),
        worker_(lane::find_libzmq(library), reinterpret_cast<void*>(socket),
                {memory_->data(), memory_->nbytes()}, settings, *loan_) {}
  ~EchoingWorker() {
    if (loan_->is_out()) {
      static_cast<void>(memory_.release());  // which ZeroMQ may still read: it is never let go
    } else {
      loan_->end();
    }
  }
  EchoingWorker(const EchoingWorker&) = delete;
  EchoingWorker& operator=(const EchoingWorker&) = delete;

  void exchange() {
    while (!exchange_without_gil()) {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
  }

 private:
  bool exchange_without_gil() {
    const py::gil_scoped_release release;
    return worker_.exchange();
  }

  std::unique_ptr<BufferView> memory_;
  lane::Loan* const loan_;
  lane::EchoWorker worker_;
};

}  // namespace

void register_echo(py::module_& m) {
  m.def("serve_echo", &serve_echo, py::arg("intake"),
        R"(Sends every message of a socket back as it came, until a signal raises.

intake: of the socket; it has begun.)");

  py::class_<EchoingWorker>(m, "EchoWorker", R"(Sends memory to `serve_echo`, and takes it back.

It uses a lane's means, but no engine: what `Client.push_pull` takes beyond that, engines take.)")
      .def(
          py::init([](const std::string& library, std::uintptr_t socket, const py::buffer& memory,
                      std::size_t chunk_nbytes, std::size_t window, double spin_s,
                      std::size_t copy_below_nbytes) {
            if (chunk_nbytes == 0 || window == 0) {
              throw std::invalid_argument("chunk_nbytes, window: expected 1 or more");
            }
            return std::make_unique<EchoingWorker>(
                library, socket, memory,
                lane::EchoSettings{chunk_nbytes, window, spin_s, copy_below_nbytes});
          }),
          py::arg("library"), py::arg("socket"), py::arg("memory"), py::kw_only(),
          py::arg("chunk_nbytes"), py::arg("window"), py::arg("spin_s"),
          py::arg("copy_below_nbytes"),
          R"(library: the path of what pyzmq has loaded. socket: the handle of a DEALER socket, which
outlives it. memory: a writable buffer. window: how many chunks are on their way at most. spin_s,
copy_below_nbytes: as of StepLane.)")
      .def("exchange", &EchoingWorker::exchange,
           "Sends all of the memory, and waits until all of it is back in its place.");
}

}  // namespace leash::bindings
