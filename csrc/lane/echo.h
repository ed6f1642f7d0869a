// What a lane does without an engine: messages go between sockets and come back as they were sent.
// For benchmarks: what an exchange takes beyond this, the engines take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "lane/inbox.h"
#include "lane/libzmq.h"
#include "lane/loan.h"

namespace leash::lane {

// Sends back the messages of a ROUTER socket, in the memory in which they came. For the thread that
// uses the socket.
class EchoServer {
 public:
  EchoServer(const LibZmq& zmq, void* socket, Inbox& inbox)
      : zmq_(zmq), socket_(socket), inbox_(inbox), payload_(zmq) {}

  // Serves until a signal comes.
  void serve();

 private:
  bool send_back();

  const LibZmq& zmq_;
  void* const socket_;
  Inbox& inbox_;
  Frame payload_;
};

struct EchoSettings {
  std::size_t chunk_nbytes;
  std::size_t window;  // how many chunks are on their way at most
  double spin_s;       // as of StepLaneSettings, like the next one
  std::size_t copy_below_nbytes;
};

// Sends memory in chunks over a DEALER socket, each behind a header as long as that of a push, and
// copies each to its place when it comes back. For the thread that uses the socket.
class EchoWorker {
 public:
  // memory: is not freed while the loan is out.
  EchoWorker(const LibZmq& zmq, void* socket, std::span<std::byte> memory,
             const EchoSettings& settings, Loan& loan);

  // Begins an exchange, and goes on with one that has begun. False if a signal came first: then it
  // is to be called again. Throws std::runtime_error if what comes back is not what was sent.
  bool exchange();

 private:
  std::span<std::byte> chunk(std::size_t number) const;
  void send(std::span<std::byte> chunk);
  void hand_over(ZmqMessage& frame, int flags);
  bool receive_soon();

  const LibZmq& zmq_;
  void* const socket_;
  const std::span<std::byte> memory_;
  const EchoSettings settings_;
  const std::size_t chunks_;
  Loan& loan_;
  Frame frame_;
  std::size_t sent_ = 0;      // of this exchange
  std::size_t received_ = 0;  // of this exchange
  double newest_s_ = 0.0;     // how long the newest chunk took to come back
};

}  // namespace leash::lane
