// Threads that share the work on one long array.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace leash {

// T - 1 threads and the caller. They wait for the next call first awake and then asleep, and end in
// the destructor. A call allocates nothing.
//
// For one caller at a time. Neither throws nor lets anything through that throws.
class ThreadPool {
 public:
  // Throws std::invalid_argument for less than 1 or more than kMostThreads, and std::system_error
  // if a thread cannot start; those that had started have ended then.
  explicit ThreadPool(std::size_t threads);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls part(begin, count) for consecutive ranges that make up [0, n), each on some thread, and
  // returns when all are done. All but the last are multiples of kGrain long. Few values are one
  // range, on the caller.
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
  // To wake a thread takes some microseconds, as long as work on so many values.
  static constexpr std::size_t kWorthSplitting = 65536;

 private:
  using Call = void (*)(const void* context, std::size_t begin, std::size_t count);

  void run(std::size_t n, const void* context, Call call);
  void serve();
  void join() noexcept;  // ends the threads
  bool work_on_one_piece();

  // The call that is being worked on. Written while nobody has a piece of it.
  const void* context_ = nullptr;
  Call call_ = nullptr;
  std::size_t n_ = 0;
  std::size_t piece_ = 0;  // values in each, but for the last

  // How many pieces nobody has taken; how many are not done. The first wakes the threads, and
  // taking one is what makes the members above safe to read.
  alignas(64) std::atomic<std::uint32_t> untaken_ = 0;
  alignas(64) std::atomic<std::uint32_t> undone_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace leash
