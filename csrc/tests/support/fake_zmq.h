// Functions with libzmq's interface, over queues in this process: messages are frames in order, and
// a socket takes and gives what a test says.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "lane/libzmq.h"

namespace leash::tests {

// What a test sees of one socket, whose handle is its address.
struct FakeSocket {
  using Frames = std::vector<std::string>;

  std::deque<Frames> incoming = {};  // whole messages, which the socket gives
  std::vector<Frames> sent = {};     // whole messages, which the socket has taken
  int fails = 0;                     // the error of each first frame that is sent; 0: none
  bool seems_full = false;           // it takes nothing until it is asked for its events

  void* handle() { return this; }

  // Between the frames of a message.
  std::size_t frames_given = 0;
  Frames frames_taken = {};
};

// The error of zmq_poll where nothing waits: 0 says that the time is over.
extern int fake_poll_error;

// Lets go of the messages that were sent, as a thread of ZeroMQ does once they have left: until
// then their bytes stay where they are.
void let_messages_leave();

const lane::LibZmq& fake_libzmq();

}  // namespace leash::tests
