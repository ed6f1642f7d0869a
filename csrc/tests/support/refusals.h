// A system that refuses: this program's own pthread_create(), mallopt() and madvise() stand before
// those of the C library, and say no when a test wants them to.
#pragma once

#include <cstddef>
#include <optional>
#include <tuple>
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

// While this exists, madvise() changes nothing in this thread: it refuses everything, or agrees.
class Madvise {
 public:
  explicit Madvise(bool refuses);
  ~Madvise();

  Madvise(const Madvise&) = delete;
  Madvise& operator=(const Madvise&) = delete;

  using Advice = std::tuple<const void*, std::size_t, int>;  // begin, bytes, advice
  const std::vector<Advice>& asked() const;                  // in order
};

}  // namespace leash::tests
