#include "lane/rings/ring.h"

#include <atomic>
#include <cstring>

namespace leash::lane {
namespace {

constexpr std::size_t kHeadAt = 0;
constexpr std::size_t kTailAt = 64;  // words of different writers lie on lines of their own
constexpr std::size_t kAsleepAt = 128;
constexpr std::size_t kClosedAt = 192;

// Nobody but the kernel stands between the two processes, so a word must be one access.
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic_ref<std::uint32_t>::is_always_lock_free);

std::atomic_ref<std::uint64_t> number(std::byte* ring, std::size_t at) {
  return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(ring + at));
}

std::atomic_ref<std::uint32_t> flag(std::byte* ring, std::size_t at) {
  return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(ring + at));
}

std::byte* record(std::byte* ring, std::uint64_t number) {
  return ring + kRingWordsNbytes + number % kRingRecords * kRingRecordNbytes;
}

}  // namespace

RingWriter::RingWriter(std::byte* ring)
    : ring_(ring), head_(number(ring, kHeadAt).load(std::memory_order_relaxed)) {}

bool RingWriter::put(std::span<const std::byte> header) {
  if (head_ - number(ring_, kTailAt).load(std::memory_order_acquire) >= kRingRecords) return false;
  std::byte* const place = record(ring_, head_);
  const auto nbytes = static_cast<std::uint16_t>(header.size());
  std::memcpy(place, &nbytes, sizeof(nbytes));
  std::memcpy(place + sizeof(nbytes), header.data(), header.size());
  // Either the reader sees this number before it sleeps, or has_to_wake() sees that it sleeps.
  number(ring_, kHeadAt).store(++head_, std::memory_order_seq_cst);
  return true;
}

bool RingWriter::has_to_wake() {
  return flag(ring_, kAsleepAt).load(std::memory_order_seq_cst) != 0 &&
         flag(ring_, kAsleepAt).exchange(0, std::memory_order_seq_cst) != 0;
}

bool RingWriter::is_closed() const {
  return flag(ring_, kClosedAt).load(std::memory_order_acquire) != 0;
}

RingReader::RingReader(std::byte* ring)
    : ring_(ring), tail_(number(ring, kHeadAt).load(std::memory_order_acquire)) {
  number(ring_, kTailAt).store(tail_, std::memory_order_release);
  flag(ring_, kClosedAt).store(0, std::memory_order_release);
  wake_up();
}

void RingReader::close() { flag(ring_, kClosedAt).store(1, std::memory_order_release); }

RingReader::Taken RingReader::take() {
  const std::uint64_t written = number(ring_, kHeadAt).load(std::memory_order_acquire);
  if (written == tail_) return Taken::kNothing;
  if (written - tail_ > kRingRecords) return Taken::kBroken;
  const std::byte* const place = record(ring_, tail_);
  std::uint16_t nbytes = 0;
  std::memcpy(&nbytes, place, sizeof(nbytes));
  if (nbytes > kRingHeaderNbytes) return Taken::kBroken;
  std::memcpy(header_.data(), place + sizeof(nbytes), nbytes);
  nbytes_ = nbytes;
  number(ring_, kTailAt).store(++tail_, std::memory_order_release);
  return Taken::kHeader;
}

bool RingReader::has_come() const {
  return number(ring_, kHeadAt).load(std::memory_order_seq_cst) != tail_;
}

void RingReader::fall_asleep() { flag(ring_, kAsleepAt).store(1, std::memory_order_seq_cst); }

void RingReader::wake_up() { flag(ring_, kAsleepAt).store(0, std::memory_order_relaxed); }

}  // namespace leash::lane
