#include "lane/engines/step_lane.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace leash::lane {
namespace {

using Time = std::chrono::steady_clock;

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
double seconds_since(Time::time_point began) {
  return std::chrono::duration<double>(Time::now() - began).count();
}

}  // namespace

StepLane::StepLane(const LibZmq& zmq, const std::vector<void*>& sockets,
                   const StepLaneSettings& settings, Bytes bytes, Loan& loan)
    : zmq_(zmq),
      sockets_(sockets),
      settings_(settings),
      bytes_(std::move(bytes)),
      loan_(loan),
      header_(zmq),
      payload_(zmq) {}

void StepLane::replace(std::size_t shard, void* socket) { sockets_.at(shard) = socket; }

double StepLane::take_waited() { return std::exchange(waited_s_, 0.0); }

StepLane::Stop StepLane::advance(StepEngine& engine) {
  for (std::size_t shard = 0; shard < sockets_.size(); ++shard) {
    bool has_come = true;
    while (has_come) {
      if (const auto stop = send(engine, shard, kNoLimit)) return *stop;
      if (const auto stop = take(engine, shard, has_come)) return *stop;
    }
  }
  return Stop::kDone;
}

StepLane::Stop StepLane::finish(StepEngine& engine, std::size_t at_once) {
  while (true) {
    busy_.clear();
    for (std::size_t shard = 0; shard < sockets_.size(); ++shard) {
      if (!engine.is_idle(shard)) busy_.push_back(shard);
    }
    if (busy_.empty()) return Stop::kDone;
    for (const std::size_t shard : busy_) {
      if (const auto stop = send(engine, shard, at_once)) return *stop;
    }
    const Time::time_point began = Time::now();
    const std::optional<Stop> stop = take_next(engine);
    newest_s_ = seconds_since(began);
    waited_s_ += newest_s_;
    if (stop) return *stop;
  }
}

// Takes the next answers of those that are busy.
std::optional<StepLane::Stop> StepLane::take_next(StepEngine& engine) {
  for (const std::size_t shard : busy_) {
    if (!engine.is_connected(shard)) return Stop::kQuiet;
  }
  bool has_come = false;
  if (busy_.size() == 1) {
    const std::size_t shard = busy_.front();
    const bool spins = newest_s_ < settings_.spin_s && engine.awaits_last(shard);
    const auto stop = spins ? spin(engine, shard, has_come) : take(engine, shard, has_come);
    if (stop || has_come) return stop;
  }
  items_.clear();
  for (const std::size_t shard : busy_) items_.push_back({sockets_[shard], -1, kZmqPollIn, 0});
  const int ready = zmq_.poll(items_.data(), static_cast<int>(items_.size()), settings_.look_ms);
  if (ready < 0) {
    const int error = zmq_.error();
    if (error == EINTR) return Stop::kSignal;
    throw std::runtime_error("zmq_poll: error " + std::to_string(error));
  }
  if (ready == 0) return Stop::kQuiet;
  for (std::size_t i = 0; i < busy_.size(); ++i) {
    if (items_[i].revents == 0) continue;
    if (const auto stop = take(engine, busy_[i], has_come)) return stop;
  }
  return std::nullopt;
}

std::optional<StepLane::Stop> StepLane::spin(StepEngine& engine, std::size_t shard,
                                             bool& has_come) {
  const Time::time_point began = Time::now();
  while (true) {
    const auto stop = take(engine, shard, has_come);
    if (stop || has_come || seconds_since(began) > settings_.spin_s) return stop;
  }
}

std::optional<StepLane::Stop> StepLane::send(StepEngine& engine, std::size_t shard,
                                             std::size_t most) {
  while (const std::optional<Outgoing> outgoing = engine.next(shard, most)) {
    if (outgoing->attach_number != 0) {
      shard_ = shard;
      attach_number_ = outgoing->attach_number;
      return Stop::kAttach;
    }
    const bool has_payload = outgoing->payload.source != PayloadSource::kNone;
    if (!send_copy(shard, outgoing->header, has_payload ? kZmqSendMore : 0)) {
      engine.not_sent(shard);  // it goes when there is room again, or a new connection
      return std::nullopt;
    }
    if (has_payload) send_payload(shard, outgoing->payload);
  }
  return std::nullopt;
}

void StepLane::send_payload(std::size_t shard, const PayloadPlace& place) {
  const std::span<const std::byte> bytes = bytes_(place);
  bool is_taken = false;
  if (bytes.size() < settings_.copy_below_nbytes || place.source == PayloadSource::kOptions) {
    is_taken = send_copy(shard, bytes, 0);
  } else {
    ZmqMessage frame;
    // libzmq reads a message's bytes, and writes to none that it sends.
    void* const data = const_cast<std::byte*>(bytes.data());
    if (zmq_.msg_init_data(&frame, data, bytes.size(), &Loan::give_back, &loan_) != 0) {
      throw std::bad_alloc();
    }
    loan_.lend();
    is_taken = hand_over(frame, shard, 0);
  }
  if (!is_taken) throw std::runtime_error("zmq_msg_send: half a message was sent");
}

void StepLane::send_header(std::size_t shard, std::span<const std::byte> header) {
  send_copy(shard, header, 0);  // over a connection that has just broken nobody needs it
}

bool StepLane::send_copy(std::size_t shard, std::span<const std::byte> bytes, int flags) {
  ZmqMessage frame;
  if (zmq_.msg_init_size(&frame, bytes.size()) != 0) throw std::bad_alloc();
  std::memcpy(zmq_.msg_data(&frame), bytes.data(), bytes.size());
  return hand_over(frame, shard, flags);
}

// Returns whether the socket has taken the frame, which is let go otherwise.
bool StepLane::hand_over(ZmqMessage& frame, std::size_t shard, int flags) {
  const int error = put(zmq_, frame, sockets_[shard], flags);
  if (error == 0) return true;
  zmq_.msg_close(&frame);
  if (error == EAGAIN) return false;
  throw std::runtime_error("zmq_msg_send: error " + std::to_string(error));
}

std::optional<StepLane::Stop> StepLane::take(StepEngine& engine, std::size_t shard,
                                             bool& has_come) {
  has_come = header_.receive(sockets_[shard]);
  if (!has_come) return std::nullopt;
  payloads_ = 0;
  bool more = header_.more();
  if (more) {
    payload_.receive_rest(sockets_[shard]);
    payloads_ = 1;
    more = payload_.more();
  }
  while (more) {  // no answer has so many frames
    Frame surplus(zmq_);
    surplus.receive_rest(sockets_[shard]);
    more = surplus.more();
    ++payloads_;
  }
  received_ = engine.receive(shard, bytes_of(header_), payloads_,
                             payloads_ == 0 ? std::span<const std::byte>() : bytes_of(payload_));
  if (received_ == Received::kTaken) return std::nullopt;
  shard_ = shard;
  return Stop::kAnswer;
}

}  // namespace leash::lane
