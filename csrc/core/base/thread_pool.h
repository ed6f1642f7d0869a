// Splits the work on one long array over several threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace leash {

// Has threads() - 1 threads of its own; the thread that calls split() is one more. Between two
// calls the threads spin for some microseconds and then sleep; the destructor ends them.
//
// Not synchronised: one call of split() at a time. split() allocates nothing and does not throw,
// and neither may the function that it calls.
class ThreadPool {
 public:
  // Throws std::invalid_argument for less than 1 or more than kMostThreads, and std::system_error
  // if a thread cannot start; those that had started have ended then.
  explicit ThreadPool(std::size_t threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls part(begin, count) for consecutive ranges that make up [0, n), each on one of the
  // threads, and returns when all calls have returned. The lengths, except the last, are multiples
  // of kGrain. Below kWorthSplitting values there is one range, and the caller's thread works on
  // it.
  template <typename Part>
  void split(std::size_t n, const Part& part) {
    if (threads_.empty() || n < kWorthSplitting) {
      part(std::size_t{0}, n);
      return;
    }
    run(n, &part, [](const void* context, std::size_t begin, std::size_t count) {
      (*static_cast<const Part*>(context))(begin, count);
    });
  }

  std::size_t threads() const { return threads_.size() + 1; }

  static constexpr std::size_t kMostThreads = 256;
  static constexpr std::size_t kGrain = 4096;
  // To wake a thread takes some microseconds, in which the caller could work on so many values
  // itself.
  static constexpr std::size_t kWorthSplitting = 65536;

 private:
  using Call = void (*)(const void* context, std::size_t begin, std::size_t count);

  void run(std::size_t n, const void* context, Call call);
  void serve();
  void join() noexcept;  // ends the threads
  bool work_on_one_piece();

  // The call of split() that is being worked on. The caller writes these while no thread works.
  const void* context_ = nullptr;
  Call call_ = nullptr;
  std::size_t n_ = 0;
  std::size_t piece_ = 0;  // the values of each piece; the last one may have fewer

  // How many pieces no thread has taken, and how many are not done. Threads sleep until untaken_
  // changes. A thread takes a piece by decrementing untaken_, and may read the members above from
  // then on until it decrements undone_.
  alignas(64) std::atomic<std::uint32_t> untaken_ = 0;
  alignas(64) std::atomic<std::uint32_t> undone_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace leash
