#include "core/base/thread_pool.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <system_error>

namespace leash {
namespace {

constexpr std::uint32_t kStop = std::numeric_limits<std::uint32_t>::max();
constexpr int kSpins = 1000;            // some microseconds
constexpr std::size_t kPiecesEach = 2;  // of each thread: a late one leaves less to wait for

void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when the value is no longer `old`.
void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) noexcept {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(std::size_t threads) {
  if (threads < 1 || threads > kMostThreads) {
    throw std::invalid_argument("threads: expected 1 to " + std::to_string(kMostThreads) +
                                ", got " + std::to_string(threads));
  }
  threads_.reserve(threads - 1);
  try {
    while (threads_.size() + 1 < threads) threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error& error) {
    join();  // first of all: a string may throw too
    const std::string which =
        std::to_string(threads_.size() + 2) + " of " + std::to_string(threads);
    throw std::system_error(error.code(), "thread " + which + " cannot start");
  } catch (...) {
    join();
    throw;
  }
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() noexcept {
  untaken_.store(kStop, std::memory_order_release);
  untaken_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(std::size_t n, const void* context, Call call) {
  const std::size_t grains = (n + kGrain - 1) / kGrain;
  const std::size_t wanted = std::min(grains, kPiecesEach * threads());
  context_ = context;
  call_ = call;
  n_ = n;
  piece_ = (grains + wanted - 1) / wanted * kGrain;
  const auto pieces = static_cast<std::uint32_t>((n + piece_ - 1) / piece_);
  undone_.store(pieces, std::memory_order_relaxed);
  untaken_.store(pieces, std::memory_order_release);
  untaken_.notify_all();
  while (work_on_one_piece()) {
  }
  while (const std::uint32_t left = undone_.load(std::memory_order_acquire)) {
    wait_while(undone_, left);
  }
}

void ThreadPool::serve() {
  for (;;) {
    wait_while(untaken_, 0);
    if (untaken_.load(std::memory_order_acquire) == kStop) return;
    work_on_one_piece();
  }
}

// Returns false if there was none.
bool ThreadPool::work_on_one_piece() {
  std::uint32_t left = untaken_.load(std::memory_order_acquire);
  do {
    if (left == 0 || left == kStop) return false;
  } while (!untaken_.compare_exchange_weak(left, left - 1, std::memory_order_acquire));
  const std::size_t begin = (left - 1) * piece_;
  call_(context_, begin, std::min(piece_, n_ - begin));
  if (undone_.fetch_sub(1, std::memory_order_acq_rel) == 1) undone_.notify_one();
  return true;
}

}  // namespace leash
