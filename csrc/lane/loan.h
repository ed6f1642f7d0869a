// Counts the messages on their way that ZeroMQ still reads from memory of this process, so that
// whoever owns that memory keeps it for so long.
#pragma once

#include <atomic>
#include <cstddef>

namespace leash::lane {

// ZeroMQ's own threads give back, and nobody else touches it there. It lives until the last message
// is back, wherever its owner is by then.
class Loan {
 public:
  static Loan* make() { return new Loan(); }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

  void lend() { lent_.fetch_add(1, std::memory_order_relaxed); }
  // As libzmq calls it when it needs a message's bytes no longer.
  static void give_back(void* /*bytes*/, void* loan) {
    static_cast<Loan*>(loan)->lent_.fetch_sub(1, std::memory_order_release);
  }
  bool is_out() const { return lent_.load(std::memory_order_acquire) != 0; }

  // REQUIRES: nothing is out, nor will be.
  void end() { delete this; }

 private:
  Loan() = default;
  ~Loan() = default;
  std::atomic<std::size_t> lent_ = 0;
};

}  // namespace leash::lane
