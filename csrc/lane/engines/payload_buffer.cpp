#include "lane/engines/payload_buffer.h"

#include <cerrno>
#include <stdexcept>
#include <string>

namespace leash::lane {

bool PayloadBuffer::receive(void* socket) {
  while (zmq_.msg_recv(&message_, socket, kZmqDontWait) < 0) {
    const int error = zmq_.error();
    if (error != EAGAIN && error != EINTR) {
      throw std::runtime_error("zmq_msg_recv: error " + std::to_string(error));
    }
  }
  set_memory(static_cast<std::byte*>(zmq_.msg_data(&message_)), zmq_.msg_size(&message_));
  return zmq_.msg_more(&message_) == 0;
}

void PayloadBuffer::send(void* socket) {
  set_memory(nullptr, 0);
  if (const int error = put(zmq_, message_, socket, 0); error != 0) {
    throw std::runtime_error("zmq_msg_send: error " + std::to_string(error));
  }
}

void PayloadBuffer::clear() {
  zmq_.msg_close(&message_);
  zmq_.msg_init(&message_);
  set_memory(nullptr, 0);
  renew();
}

}  // namespace leash::lane
