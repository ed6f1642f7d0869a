// A system that refuses: this program's own pthread_create() and mallopt() stand before those of
// the C library, and say no when a test wants them to.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace leash::tests {

// While this exists, this thread starts so many threads, and no more.
class ThreadLimit {
 public:
  explicit ThreadLimit(std::size_t threads);
  ~ThreadLimit();

  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;
};

// While this exists, mallopt() changes nothing: it refuses one parameter, if any, and agrees to all
// others.
class Mallopt {
 public:
  explicit Mallopt(std::optional<int> refused);
  ~Mallopt();

  Mallopt(const Mallopt&) = delete;
  Mallopt& operator=(const Mallopt&) = delete;

  const std::vector<int>& asked() const;  // the parameters, in order
};

}  // namespace leash::tests
