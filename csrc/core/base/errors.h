// The core's errors besides the standard ones:
//
//   std::invalid_argument   a value that does not fit          ValueError in Python
//   std::out_of_range       no such chunk                      IndexError
//   NotLive                 no such worker                     KeyError
//   std::system_error       a thread that cannot start         OSError
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace leash {

class NotLive : public std::runtime_error {
 public:
  explicit NotLive(std::uint32_t worker)
      : std::runtime_error("worker " + std::to_string(worker) + " is not live") {}
};

}  // namespace leash
