#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/lane/socket_intake.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace leash::bindings {
void register_intake(py::module_& m) {
  m.def(
      "find_libzmq", [](const std::string& path) { lane::find_libzmq(path); }, py::arg("path"),
      "Raises RuntimeError unless this shared object, which is loaded, has the functions of "
      "libzmq 4, or one that it needs has them.");

  py::class_<Intake>(m, "Intake",
                     R"(Takes the messages of one ROUTER socket, and looks after its peers.

A thread of its own closes the connections that cost more than a peer may; it takes no Python. All
methods are for the thread that uses the socket.)")
      .def(
          py::init([](const std::string& library, std::uintptr_t context, std::uintptr_t socket,
                      const std::string& monitor, std::size_t connections,
                      std::size_t message_nbytes, std::size_t backlog_nbytes,
                      std::size_t unfinished_nbytes, std::size_t header_nbytes) {
            return std::make_unique<Intake>(
                library, context, socket, monitor,
                lane::Limits{connections, message_nbytes, backlog_nbytes, unfinished_nbytes},
                header_nbytes);
          }),
          py::arg("library"), py::arg("context"), py::arg("socket"), py::arg("monitor"),
          py::kw_only(), py::arg("connections"), py::arg("message_nbytes"),
          py::arg("backlog_nbytes"), py::arg("unfinished_nbytes"), py::arg("header_nbytes"),
          R"(library: the shared object of pyzmq. context, socket: its handles of them. monitor: the
address at which the socket tells of connections, already. connections: how many there may be.
message_nbytes: of the longest message. backlog_nbytes: what a peer may have sent while nothing is
taken. unfinished_nbytes: of all messages together whose end has not come. header_nbytes: of the
longest header.

RuntimeError if libzmq's functions cannot be found.)")
      .def("begin", &Intake::begin, py::arg("port"), "The socket listens at this port now.")
      .def("close", &Intake::close, "Ends the thread, which must be before the context does.")
      .def("receive", &Intake::receive,
           R"(Takes route and header of the next message.

Beside these it gives whether a payload follows, and whether the sender is known as a member; None
if no message has come. A payload has to be taken from the socket, and then drain() be called
if a further frame follows.)")
      .def("drain", &Intake::drain, "Drops the frames that follow in the message.")
      .def(
          "vouch", [](Intake& self) { self.open().vouch(); },
          "The sender of the newest message is a member.")
      .def(
          "refuse", [](Intake& self) { self.open().refuse(); },
          "The newest message was refused; who sends many such loses its connection.")
      .def(
          "condemn_failed", [](Intake& self) { self.open().condemn(lane::Reason::kFailed); },
          "The server itself failed at the newest message, whose sender loses its connection soon.")
      .def(
          "condemn_unread",
          [](Intake& self, const py::bytes& route) {
            self.open().condemn(std::string_view(route), lane::Reason::kUnread);
          },
          py::arg("route"),
          "The peer with this route does not read, and loses its connection soon.")
      .def(
          "is_connected",
          [](Intake& self, const py::bytes& route) {
            return self.open().is_connected(std::string_view(route));
          },
          py::arg("route"),
          "Whether the connection with this route, of which a message has come, still stands.")
      .def_property_readonly(
          "user", [](Intake& self) { return self.open().route().user(); },
          "The name under which ZAP let in the sender of the newest message; empty without.")
      .def(
          "attend", [](Intake& self) { self.open().attend(); }, "Call it when `fd` can be read.")
      .def(
          "take_refused", [](Intake& self) { return self.take_refused(); },
          "How many connections ended in the handshake since the last call.")
      .def_property_readonly("fd", &Intake::fd, "Readable when the guard asks something.")
      .def(
          "take_closed", &Intake::take_closed,
          "How many connections were closed since the last call, by reason; and some of them, with "
          "their reason and host.");
}

}  // namespace leash::bindings
