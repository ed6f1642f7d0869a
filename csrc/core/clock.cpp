#include "core/clock.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#include "core/errors.h"

namespace leash {
namespace {

// Works for the map as it is and for the map as const.
auto& bucket_in(auto& bucket_of, std::uint32_t worker) {
  const auto found = bucket_of.find(worker);
  if (found == bucket_of.end()) throw NotLive(worker);
  return found->second;
}

[[noreturn]] void refuse(std::uint32_t worker, const std::string& reason) {
  throw std::invalid_argument("worker " + std::to_string(worker) + ": " + reason);
}

}  // namespace

StalenessClock::StalenessClock(std::optional<std::uint64_t> bound) : bound_(bound) {}

void StalenessClock::check_join(std::uint32_t worker, std::uint64_t clock) const {
  if (worker == 0) refuse(worker, "expected an id of at least 1");
  if (contains(worker)) refuse(worker, "is live already");
  if (clock < minimum()) {
    refuse(worker, "expected a clock of at least " + std::to_string(minimum()) +
                       ", the smallest there is, got " + std::to_string(clock));
  }
}

void StalenessClock::join(std::uint32_t worker, std::uint64_t clock) {
  check_join(worker, clock);
  auto bucket = std::ranges::find_if(buckets_, [&](const Bucket& b) { return b.clock >= clock; });
  if (bucket == buckets_.end() || bucket->clock != clock) bucket = insert(bucket, clock);
  ++bucket->workers;
  bucket_of_.emplace(worker, bucket);
}

void StalenessClock::leave(std::uint32_t worker) {
  const auto bucket = bucket_in(bucket_of_, worker);
  last_minimum_ = minimum();
  remove_one(bucket);
  bucket_of_.erase(worker);
}

std::uint64_t StalenessClock::tick(std::uint32_t worker) {
  auto& bucket = bucket_in(bucket_of_, worker);
  bucket = advance(bucket);
  return bucket->clock;
}

std::uint64_t StalenessClock::clock(std::uint32_t worker) const {
  return bucket_in(bucket_of_, worker)->clock;
}

std::uint64_t StalenessClock::minimum() const {
  return buckets_.empty() ? last_minimum_ : buckets_.front().clock;
}

std::uint64_t StalenessClock::lag(std::uint32_t worker) const { return clock(worker) - minimum(); }

bool StalenessClock::admits(std::uint32_t worker) const {
  const std::uint64_t ahead = lag(worker);
  return !bound_ || ahead <= *bound_;
}

std::vector<std::uint32_t> StalenessClock::workers() const {
  std::vector<std::uint32_t> live;
  live.reserve(size());
  for (const auto& [worker, bucket] : bucket_of_) live.push_back(worker);
  std::ranges::sort(live);
  return live;
}

StalenessClock::Buckets::iterator StalenessClock::advance(Buckets::iterator from) {
  const std::uint64_t clock = from->clock + 1;
  const auto next = std::next(from);
  const bool exists = next != buckets_.end() && next->clock == clock;
  if (!exists && from->workers == 1) {
    from->clock = clock;
    return from;
  }
  const auto to = exists ? next : insert(next, clock);
  ++to->workers;
  remove_one(from);
  return to;
}

StalenessClock::Buckets::iterator StalenessClock::insert(Buckets::iterator before,
                                                         std::uint64_t clock) {
  if (spare_.empty()) return buckets_.insert(before, Bucket{clock, 0});
  buckets_.splice(before, spare_, spare_.begin());
  *std::prev(before) = Bucket{clock, 0};
  return std::prev(before);
}

void StalenessClock::remove_one(Buckets::iterator bucket) {
  if (--bucket->workers == 0) spare_.splice(spare_.begin(), buckets_, bucket);
}

}  // namespace leash
