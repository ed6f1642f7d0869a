#include "lane/sources.h"

#include <cerrno>
#include <stdexcept>
#include <string>

namespace leash::lane {

void Sources::remove(std::size_t place) {
  items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(place));
}

bool Sources::wait(long timeout_ms, std::size_t first) {
  for (ZmqPollItem& item : items_) item.revents = 0;
  if (own_ >= 0) items_.push_back({nullptr, own_, kZmqPollIn, 0});
  const int ready =
      zmq_.poll(items_.data() + first, static_cast<int>(items_.size() - first), timeout_ms);
  if (own_ >= 0) items_.pop_back();
  if (ready >= 0) return true;
  const int error = zmq_.error();
  if (error == EINTR) return false;
  throw std::runtime_error("zmq_poll: error " + std::to_string(error));
}

}  // namespace leash::lane
