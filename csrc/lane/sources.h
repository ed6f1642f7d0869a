// What a thread waits for: sockets of ZeroMQ, and descriptors.
#pragma once

#include <cstddef>
#include <vector>

#include "lane/libzmq.h"

namespace leash::lane {

class Sources {
 public:
  explicit Sources(const LibZmq& zmq) : zmq_(zmq) {}

  void add(void* socket) { items_.push_back({socket, -1, kZmqPollIn, 0}); }
  void add(int fd) { items_.push_back({nullptr, fd, kZmqPollIn, 0}); }
  void remove(std::size_t place);
  // Waits for this one too, which has no place: who made it looks there itself. -1 for none.
  void set_own(int fd) { own_ = fd; }

  // Waits until something can be read somewhere, from this place on, for so long at most, or until
  // a signal comes. Returns whether it was not a signal. Throws std::runtime_error if a socket is
  // closed.
  bool wait(long timeout_ms, std::size_t first = 0);

  std::size_t size() const { return items_.size(); }
  // Whether something could be read there when the newest wait() ended.
  bool is_ready(std::size_t place) const { return items_[place].revents != 0; }

 private:
  const LibZmq& zmq_;
  std::vector<ZmqPollItem> items_;
  int own_ = -1;
};

}  // namespace leash::lane
