#include "lane/rings/bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cmath>
#include <ctime>

namespace leash::lane {
namespace {

constexpr std::size_t kCountAt = 0;
constexpr std::size_t kAsleepAt = 64;

std::uint32_t* word(std::byte* page, std::size_t at) {
  return reinterpret_cast<std::uint32_t*>(page + at);
}

std::atomic_ref<std::uint32_t> value(std::byte* page, std::size_t at) {
  return std::atomic_ref(*word(page, at));
}

}  // namespace

void Bell::ring() {
  value(page_, kCountAt).fetch_add(1, std::memory_order_seq_cst);
  if (value(page_, kAsleepAt).load(std::memory_order_seq_cst) == 0) return;
  ::syscall(SYS_futex, word(page_, kCountAt), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

std::uint32_t Bell::count() const { return value(page_, kCountAt).load(std::memory_order_seq_cst); }

void Bell::fall_asleep() { value(page_, kAsleepAt).store(1, std::memory_order_seq_cst); }

bool Bell::sleep(std::uint32_t count, double timeout_s) {
  const double whole_s = std::floor(timeout_s);
  const timespec timeout{static_cast<time_t>(whole_s),
                         static_cast<long>((timeout_s - whole_s) * 1e9)};
  return ::syscall(SYS_futex, word(page_, kCountAt), FUTEX_WAIT, count, &timeout, nullptr, 0) < 0 &&
         errno == EINTR;
}

void Bell::wake_up() { value(page_, kAsleepAt).store(0, std::memory_order_relaxed); }

void wake_by(int pipe) {
  const char byte = 0;
  [[maybe_unused]] const auto written = ::write(pipe, &byte, 1);
}

void empty(int pipe) {
  char bytes[256];
  [[maybe_unused]] const auto taken = ::read(pipe, bytes, sizeof(bytes));
}

}  // namespace leash::lane
