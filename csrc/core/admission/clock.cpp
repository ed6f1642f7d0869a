#include "core/admission/clock.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#include "core/base/errors.h"

namespace leash {
namespace {

// A template, so that one function serves the map and the const map.
auto& place_in(auto& places, std::uint32_t worker) {
  const auto found = places.find(worker);
  if (found == places.end()) throw NotLive(worker);
  return found->second;
}

[[noreturn]] void refuse_join(std::uint32_t worker, const std::string& reason) {
  throw std::invalid_argument("worker " + std::to_string(worker) + ": " + reason);
}

}  // namespace

StepClock::StepClock(std::optional<std::uint64_t> bound) : bound_(bound) {}

void StepClock::check_join(std::uint32_t worker, std::uint64_t clock) const {
  if (worker == 0) refuse_join(worker, "expected an id of at least 1");
  if (contains(worker)) refuse_join(worker, "is live already");
  if (clock < minimum()) {
    refuse_join(worker, "expected a clock of at least " + std::to_string(minimum()) +
                            ", the smallest there is, got " + std::to_string(clock));
  }
}

void StepClock::join(std::uint32_t worker, std::uint64_t clock) {
  check_join(worker, clock);
  auto bucket = std::ranges::find_if(buckets_, [&](const Bucket& b) { return b.clock >= clock; });
  if (bucket == buckets_.end() || bucket->clock != clock) bucket = insert(bucket, clock);
  enter(places_.emplace(worker, Place{.worker = worker}).first->second, bucket);
}

void StepClock::leave(std::uint32_t worker) {
  Place& place = place_in(places_, worker);
  last_minimum_ = minimum();
  exit(place);
  places_.erase(worker);
}

std::uint64_t StepClock::tick(std::uint32_t worker) {
  Place& place = place_in(places_, worker);
  advance(place);
  return place.bucket->clock;
}

std::uint64_t StepClock::clock(std::uint32_t worker) const {
  return place_in(places_, worker).bucket->clock;
}

std::uint64_t StepClock::minimum() const {
  return buckets_.empty() ? last_minimum_ : buckets_.front().clock;
}

std::uint64_t StepClock::lag(std::uint32_t worker) const { return clock(worker) - minimum(); }

bool StepClock::admits(std::uint32_t worker) const {
  const std::uint64_t ahead = lag(worker);
  return !bound_ || ahead <= *bound_;
}

std::uint32_t StepClock::slowest() const {
  return buckets_.empty() ? 0 : buckets_.front().first->worker;
}

bool StepClock::is_fastest(std::uint32_t worker) const {
  return std::next(place_in(places_, worker).bucket) == buckets_.end();
}

std::vector<std::uint32_t> StepClock::workers() const {
  std::vector<std::uint32_t> live;
  live.reserve(size());
  for (const auto& [worker, place] : places_) live.push_back(worker);
  std::ranges::sort(live);
  return live;
}

void StepClock::advance(Place& place) {
  const Buckets::iterator from = place.bucket;
  const std::uint64_t clock = from->clock + 1;
  const auto next = std::next(from);
  const bool exists = next != buckets_.end() && next->clock == clock;
  if (!exists && from->first == from->last) {  // alone in its bucket, which moves along
    from->clock = clock;
    return;
  }
  const auto to = exists ? next : insert(next, clock);
  exit(place);
  enter(place, to);
}

void StepClock::enter(Place& place, Buckets::iterator bucket) {
  place.bucket = bucket;
  place.previous = bucket->last;
  place.next = nullptr;
  (bucket->last == nullptr ? bucket->first : bucket->last->next) = &place;
  bucket->last = &place;
}

void StepClock::exit(Place& place) {
  const Buckets::iterator bucket = place.bucket;
  (place.previous == nullptr ? bucket->first : place.previous->next) = place.next;
  (place.next == nullptr ? bucket->last : place.next->previous) = place.previous;
  if (bucket->first == nullptr) spare_.splice(spare_.begin(), buckets_, bucket);
}

StepClock::Buckets::iterator StepClock::insert(Buckets::iterator before, std::uint64_t clock) {
  if (spare_.empty()) return buckets_.insert(before, Bucket{.clock = clock});
  buckets_.splice(before, spare_, spare_.begin());
  *std::prev(before) = Bucket{.clock = clock};
  return std::prev(before);
}

}  // namespace leash
