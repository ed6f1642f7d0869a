// The lane's Inbox and ConnectionGuard as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lane/connection_guard.h"
#include "lane/inbox.h"
#include "lane/libzmq.h"

namespace leash::bindings {

// The inbox and the guard of one socket of pyzmq, whose handles are given as numbers.
class Intake {
 public:
  Intake(const std::string& library, std::uintptr_t context, std::uintptr_t socket,
         const std::string& monitor, const lane::Limits& limits, std::size_t header_nbytes)
      : zmq_(lane::find_libzmq(library)),
        socket_(reinterpret_cast<void*>(socket)),
        header_nbytes_(header_nbytes),
        guard_(zmq_, reinterpret_cast<void*>(context), monitor, limits) {}
  ~Intake() { close(); }

  void begin(std::uint16_t port) {
    guard_.begin(port);
    inbox_.emplace(zmq_, socket_, guard_);
  }

  void close() {
    inbox_.reset();
    const pybind11::gil_scoped_release release;
    guard_.end();
  }

  // Route, header, whether a payload follows, and whether the sender is known as a member; None if
  // no message has come. Of a header that is too long it gives one byte more than may be.
  pybind11::object receive() {
    lane::Inbox& inbox = open();
    if (!inbox.receive()) return pybind11::none();
    return pybind11::make_tuple(route(), header(), inbox.has_more(), inbox.is_known());
  }

  // Of the message that was taken last.
  pybind11::bytes route() { return bytes_of(open().route(), SIZE_MAX); }
  pybind11::bytes header() { return bytes_of(open().header(), header_nbytes_ + 1); }

  void drain() {
    lane::Inbox& inbox = open();
    const pybind11::gil_scoped_release release;  // there may be millions of frames
    inbox.drain();
  }

  const lane::LibZmq& zmq() const { return zmq_; }
  void* socket() const { return socket_; }

  lane::Inbox& open() {
    if (!inbox_) throw std::runtime_error("the intake is closed");
    return *inbox_;
  }

  std::uint64_t take_refused() { return guard_.take_refused(); }

  int fd() const { return guard_.question_fd(); }

  std::pair<std::vector<std::pair<std::string, std::uint64_t>>,
            std::vector<std::pair<std::string, std::string>>>
  take_closed() {
    const lane::Closed closed = guard_.take_closed();
    std::vector<std::pair<std::string, std::uint64_t>> counts;
    for (std::size_t i = 0; i < lane::kReasons; ++i) {
      const auto reason = static_cast<lane::Reason>(i);
      if (closed.counts[i] > 0) counts.emplace_back(lane::name_of(reason), closed.counts[i]);
    }
    std::vector<std::pair<std::string, std::string>> examples;
    for (const auto& [reason, host] : closed.examples) {
      examples.emplace_back(lane::name_of(reason), host);
    }
    return {std::move(counts), std::move(examples)};
  }

 private:
  static pybind11::bytes bytes_of(lane::Frame& frame, std::size_t most) {
    return {frame.data(), std::min(frame.nbytes(), most)};
  }

  const lane::LibZmq& zmq_;
  void* const socket_;
  const std::size_t header_nbytes_;
  lane::ConnectionGuard guard_;
  std::optional<lane::Inbox> inbox_;
};

}  // namespace leash::bindings
