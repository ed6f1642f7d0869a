// The payload of a message, in the memory in which ZeroMQ has received it. The answer may be
// written there too, and sent from there.
#pragma once

#include "core/shard_engine/buffer.h"
#include "lane/libzmq.h"

namespace leash::lane {

// For the thread that uses the socket.
class PayloadBuffer final : public Buffer {
 public:
  explicit PayloadBuffer(const LibZmq& zmq) : zmq_(zmq) { zmq_.msg_init(&message_); }
  ~PayloadBuffer() override { zmq_.msg_close(&message_); }

  // Takes a further frame of a message, all of which are here; returns whether it is the last one.
  bool receive(void* socket);

  // Hands the frame to a socket that takes it: the further frame of a message. It is empty then.
  void send(void* socket);

  // Lets the frame go, so that the next one can be received. REQUIRES: nobody refers to it any
  // more.
  void clear();

 private:
  const LibZmq& zmq_;
  ZmqMessage message_;
};

}  // namespace leash::lane
