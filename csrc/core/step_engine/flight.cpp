#include "core/step_engine/flight.h"

#include <algorithm>

namespace leash {

Flight::Flight(std::uint32_t first, std::uint32_t end) : first_(first), by_chunk_(end - first) {}

Request* Flight::at(std::uint32_t chunk) const {
  if (chunk < first_ || chunk - first_ >= by_chunk_.size()) return nullptr;
  return by_chunk_[chunk - first_];
}

Request& Flight::added(RequestKind kind) {
  if (unused_.empty()) {
    all_.push_back(std::make_unique<Request>());
    unused_.push_back(all_.back().get());
  }
  Request& request = *unused_.back();
  order_.push_back(&request);
  unused_.pop_back();
  request.kind = kind;
  request.chunk = request.chunks = 0;
  request.step = request.number = 0;
  request.is_due_again = request.is_by_ring = false;
  request.payload = {};
  return request;
}

Request& Flight::add(RequestKind kind, std::uint32_t chunk, std::uint32_t chunks) {
  Request& request = added(kind);
  request.chunk = chunk;
  request.chunks = request.unanswered = chunks;
  for (std::uint32_t i = 0; i < chunks; ++i) at(chunk - i) = &request;
  return request;
}

Request& Flight::add_options(std::uint64_t number) {
  options_ = &added(RequestKind::kOptions);
  options_->number = number;
  return *options_;
}

Request* Flight::awaiting(std::uint32_t chunk, std::uint64_t chunks, std::uint64_t step,
                          std::uint64_t number) const {
  if (chunks == 0 || chunks > by_chunk_.size() || chunks > std::uint64_t{chunk} + 1) return nullptr;
  Request* found = nullptr;
  for (std::uint32_t i = 0; i < chunks; ++i) {
    Request* const request = awaiting_at(chunk - i, step);
    if (request != nullptr && request->number == number) {
      if (found == nullptr) found = request;
    } else if (at(chunk - i) != nullptr || !was_answered(chunk - i, step, number)) {
      return nullptr;
    }
  }
  return found;
}

// Whether a chunk that is not awaited is one of a request that others are awaited of.
bool Flight::was_answered(std::uint32_t chunk, std::uint64_t step, std::uint64_t number) const {
  return std::ranges::any_of(order_, [&](const Request* request) {
    return request->step == step && request->number == number && chunk <= request->chunk &&
           request->chunk - chunk < request->chunks;
  });
}

Request* Flight::awaiting_options(std::uint64_t number) const {
  return options_ != nullptr && options_->number == number ? options_ : nullptr;
}

bool Flight::is_all_by_ring() const {
  return std::ranges::all_of(order_, [](const Request* request) { return request->is_by_ring; });
}

void Flight::leave_ring() {
  for (Request* request : order_) {
    if (request->is_by_ring) send_again(*request);
  }
}

Request* Flight::awaiting_at(std::uint32_t chunk, std::uint64_t step) const {
  Request* const request = at(chunk);
  return request != nullptr && request->step == step ? request : nullptr;
}

void Flight::settle(std::uint32_t chunk, std::uint64_t chunks) {
  for (std::uint32_t i = 0; i < chunks; ++i) {
    Request*& place = at(chunk - i);
    if (place == nullptr) continue;
    Request& request = *place;
    place = nullptr;
    if (--request.unanswered == 0) remove(request);
  }
}

void Flight::settle_options() {
  remove(*options_);
  options_ = nullptr;
}

void Flight::remove(Request& request) {
  if (request.is_due_again) --due_again_;
  unused_.push_back(&request);
  order_.erase(std::find(order_.begin(), order_.end(), &request));
}

void Flight::send_all_again() {
  for (Request* request : order_) request->is_due_again = true;
  due_again_ = order_.size();
}

void Flight::send_again(Request& request) {
  if (!request.is_due_again) ++due_again_;
  request.is_due_again = true;
}

Request* Flight::next_again() {
  if (due_again_ == 0) return nullptr;
  for (Request* request : order_) {
    if (!request->is_due_again) continue;
    request->is_due_again = false;
    --due_again_;
    return request;
  }
  return nullptr;
}

void Flight::clear() {
  if (order_.empty()) return;
  unused_.insert(unused_.end(), order_.begin(), order_.end());
  order_.clear();
  std::fill(by_chunk_.begin(), by_chunk_.end(), nullptr);
  options_ = nullptr;
  due_again_ = 0;
}

}  // namespace leash
