#include "core/base/thread_pool.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/refusals.h"

using leash::ThreadPool;
using leash::tests::allocations_of;
using leash::tests::ThreadLimit;

namespace {

struct Range {
  std::size_t begin;
  std::size_t count;
};

// The ranges of one call, in ascending order.
std::vector<Range> ranges_of(ThreadPool& pool, std::size_t n) {
  std::mutex mutex;
  std::vector<Range> ranges;
  pool.split(n, [&](std::size_t begin, std::size_t count) {
    const std::lock_guard lock(mutex);
    ranges.push_back({begin, count});
  });
  std::ranges::sort(ranges, {}, &Range::begin);
  return ranges;
}

// How many threads this process has.
std::ptrdiff_t threads_of_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

// Does every thread but this one wait in the kernel?
bool others_are_asleep() {
  std::size_t awake = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string number;
    std::string name;
    char state = 0;
    file >> number >> name >> state;
    awake += state == 'R' ? 1 : 0;
  }
  return awake <= 1;
}

constexpr std::size_t kLong = 4 * ThreadPool::kWorthSplitting;

}  // namespace

TEST_CASE("the ranges make up the whole, and all but the last are whole grains") {
  constexpr std::size_t kEdge = ThreadPool::kWorthSplitting;
  for (const std::size_t threads : {1, 2, 3, 7, 16}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const std::size_t n : {kEdge, kEdge + 1, kEdge + 4095, kEdge + 4096, kLong - 1, kLong}) {
      std::size_t end = 0;
      for (const Range& range : ranges_of(pool, n)) {
        CHECK(range.begin == end);
        CHECK(range.count > 0);
        end += range.count;
        if (end < n) CHECK(range.count % ThreadPool::kGrain == 0);
      }
      CHECK(end == n);
    }
  }
}

TEST_CASE("few values are one range on the caller, of none too") {
  ThreadPool pool(3);
  const std::thread::id caller = std::this_thread::get_id();
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, ThreadPool::kWorthSplitting - 1}) {
    std::size_t calls = 0;
    pool.split(n, [&](std::size_t begin, std::size_t count) {
      ++calls;
      CHECK(std::this_thread::get_id() == caller);
      CHECK(begin == 0);
      CHECK(count == n);
    });
    CHECK(calls == 1);
  }
}

TEST_CASE("a pool is used again and again, and every call sees what the one before it wrote") {
  ThreadPool pool(4);
  std::vector<std::uint32_t> values(kLong, 0);
  constexpr std::uint32_t kCalls = 30;
  for (std::uint32_t call = 1; call <= kCalls; ++call) {
    const std::size_t n = kLong - call;  // each time other ranges, on other threads
    pool.split(n, [&](std::size_t begin, std::size_t count) {
      for (std::size_t i = begin; i < begin + count; ++i) values[i] += call;
    });
  }
  for (std::size_t i = 0; i < kLong; ++i) {
    const std::uint32_t calls = std::min<std::uint32_t>(
        kCalls, static_cast<std::uint32_t>(kLong - 1 - i));  // those with n > i
    REQUIRE(values[i] == calls * (calls + 1) / 2);
  }
}

TEST_CASE("a call allocates nothing") {
  ThreadPool pool(3);
  std::atomic<std::size_t> total = 0;
  const auto add = [&](std::size_t, std::size_t count) { total += count; };
  pool.split(kLong, add);
  CHECK(allocations_of([&] {
          for (int call = 0; call < 10; ++call) pool.split(kLong, add);
        }) == 0);
  CHECK(total == 11 * kLong);
}

TEST_CASE("a pool may end before its first call, right after one, and asleep") {
  const std::ptrdiff_t before = threads_of_process();
  for (int round = 0; round < 50; ++round) {
    ThreadPool unused(5);
    ThreadPool pool(5);
    std::atomic<std::size_t> total = 0;
    for (int call = 0; call < round % 4; ++call) {
      pool.split(kLong, [&](std::size_t, std::size_t count) { total += count; });
    }
    CHECK(total == static_cast<std::size_t>(round % 4) * kLong);
  }
  {
    ThreadPool pool(5);
    pool.split(kLong, [](std::size_t, std::size_t) {});
    while (!others_are_asleep()) std::this_thread::yield();
  }
  CHECK(threads_of_process() == before);
}

TEST_CASE("pools of several callers do not touch each other") {
  std::vector<std::size_t> sums(4, 0);
  {
    std::vector<std::jthread> callers;
    for (std::size_t& sum : sums) {
      callers.emplace_back([&sum] {
        ThreadPool pool(3);
        for (int call = 0; call < 50; ++call) {
          std::atomic<std::size_t> total = 0;
          pool.split(kLong, [&](std::size_t, std::size_t count) { total += count; });
          sum += total;
        }
      });
    }
  }
  CHECK(std::ranges::all_of(sums, [](std::size_t sum) { return sum == 50 * kLong; }));
}

TEST_CASE("a pool of no thread, and one of too many, are refused") {
  CHECK_THROWS_WITH_AS(ThreadPool(0), "threads: expected 1 to 256, got 0", std::invalid_argument);
  CHECK_THROWS_WITH_AS(ThreadPool(257), "threads: expected 1 to 256, got 257",
                       std::invalid_argument);
}

TEST_CASE("where a thread cannot start, those that had started end, and the error says which") {
  const std::ptrdiff_t before = threads_of_process();
  for (const std::size_t allowed : {0, 1, 17, 254}) {
    const ThreadLimit limit(allowed);
    try {
      const ThreadPool pool(256);
      FAIL("it started more threads than there may be");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::resource_unavailable_try_again);
      const std::string which = "thread " + std::to_string(allowed + 2) + " of 256 cannot start";
      CHECK(std::string(error.what()).starts_with(which));
    }
    CHECK(threads_of_process() == before);
  }
  const ThreadLimit limit(255);
  CHECK(ThreadPool(256).threads() == 256);
}
