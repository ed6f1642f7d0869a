#include "lane/engines/step_lane.h"

#include <algorithm>
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

constexpr double kMsPerSecond = 1000;
// Who sleeps is woken by the kernel, which costs both sides as much as a small update.
constexpr double kRingSpinS = 50e-6;
constexpr long kLookAtRingsMs = 1;  // while answers may come by sockets and by rings
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
      rings_(sockets.size()),
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
  quiet_since_ = Time::now();
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
  bool has_ring = false, awaits_rings_alone = true;
  for (const std::size_t shard : busy_) {
    if (!engine.is_connected(shard)) return Stop::kQuiet;
    if (engine.has_ring(shard) && rings_[shard]->requests.is_closed()) {
      engine.leave_ring(shard);
      return std::nullopt;  // to send it over the connection
    }
    has_ring |= engine.has_ring(shard);
    awaits_rings_alone &= engine.awaits_ring_alone(shard);
  }
  if (awaits_rings_alone) return wait_for_rings(engine);
  bool has_come = false;
  if (busy_.size() == 1) {
    const std::size_t shard = busy_.front();
    const bool spins = newest_s_ < settings_.spin_s && engine.awaits_last(shard);
    const auto stop = spins ? spin(engine, shard, has_come) : take(engine, shard, has_come);
    if (stop || has_come) return stop;
  }
  return poll_sockets(engine, has_ring ? kLookAtRingsMs : settings_.look_ms);
}

std::optional<StepLane::Stop> StepLane::poll_sockets(StepEngine& engine, long timeout_ms) {
  items_.clear();
  for (const std::size_t shard : busy_) items_.push_back({sockets_[shard], -1, kZmqPollIn, 0});
  if (zmq_.poll(items_.data(), static_cast<int>(items_.size()), timeout_ms) < 0) {
    const int error = zmq_.error();
    if (error == EINTR) return Stop::kSignal;
    throw std::runtime_error("zmq_poll: error " + std::to_string(error));
  }
  bool has_come = false;
  if (const auto stop = take_all(engine, has_come)) return stop;
  if (!has_come && (timeout_ms == settings_.look_ms || is_quiet())) return Stop::kQuiet;
  return std::nullopt;
}

// Takes an answer of each that is busy, if one has come.
std::optional<StepLane::Stop> StepLane::take_all(StepEngine& engine, bool& has_come) {
  for (const std::size_t shard : busy_) {
    bool has_one = false;
    const auto stop = take(engine, shard, has_one);
    has_come |= has_one;
    if (stop) return stop;
  }
  return std::nullopt;
}

// Sleeps on the bell, not on a socket: answers that come by one are looked for now and then, and
// when the bell rings.
std::optional<StepLane::Stop> StepLane::wait_for_rings(StepEngine& engine) {
  if (newest_s_ < kRingSpinS) {
    const Time::time_point began = Time::now();
    while (!has_come_by_ring() && seconds_since(began) < kRingSpinS) {
    }
  }
  bool is_signal = false;
  if (!has_come_by_ring()) {
    const std::uint32_t count = bell_->count();
    bell_->fall_asleep();
    is_signal = !has_come_by_ring() &&
                bell_->sleep(count, static_cast<double>(settings_.look_ms) / kMsPerSecond);
    bell_->wake_up();
  }
  if (is_signal) return Stop::kSignal;
  bool has_come = false;
  for (const std::size_t shard : busy_) {
    bool has_one = false;
    const auto stop = take_from_ring(engine, shard, has_one);
    has_come |= has_one;
    if (stop) return stop;
  }
  if (has_come) return std::nullopt;
  if (const auto stop = take_all(engine, has_come)) return stop;
  if (!has_come && is_quiet()) return Stop::kQuiet;
  return std::nullopt;
}

bool StepLane::has_come_by_ring() const {
  return std::ranges::any_of(busy_,
                             [&](std::size_t shard) { return rings_[shard]->answers.has_come(); });
}

// Whether one has waited for so long that it has to look whether it still takes part.
bool StepLane::is_quiet() {
  return seconds_since(quiet_since_) * kMsPerSecond >= static_cast<double>(settings_.look_ms);
}

std::optional<StepLane::Stop> StepLane::spin(StepEngine& engine, std::size_t shard,
                                             bool& has_come) {
  const Time::time_point began = Time::now();
  while (true) {
    const auto stop = take(engine, shard, has_come);
    if (stop || has_come || seconds_since(began) > settings_.spin_s) return stop;
  }
}

void StepLane::use_ring(StepEngine& engine, std::size_t shard, std::byte* rings, int pipe) {
  engine.use_ring(shard);
  if (!engine.has_ring(shard)) return;
  std::byte* const pair = rings + place_of_ring(shard);
  rings_[shard].emplace(Ring{RingWriter(pair), RingReader(pair + kRingNbytes), pipe});
  bell_.emplace(rings);
}

bool StepLane::send_by_ring(std::size_t shard, std::span<const std::byte> header) {
  Ring& ring = *rings_[shard];
  if (!ring.requests.put(header)) return false;
  if (ring.requests.has_to_wake()) wake_by(ring.pipe);
  return true;
}

std::optional<StepLane::Stop> StepLane::send(StepEngine& engine, std::size_t shard,
                                             std::size_t most) {
  while (const std::optional<Outgoing> outgoing = engine.next(shard, most)) {
    if (outgoing->attach_number != 0) {
      shard_ = shard;
      attach_number_ = outgoing->attach_number;
      return Stop::kAttach;
    }
    if (outgoing->is_by_ring) {
      if (send_by_ring(shard, outgoing->header)) continue;
      engine.not_sent(shard);
      return std::nullopt;
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
  if (engine.has_ring(shard)) {
    const auto stop = take_from_ring(engine, shard, has_come);
    if (stop || has_come) return stop;
  }
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
  answer_ = bytes_of(header_);
  return hand_on(engine, shard, payloads_ == 0 ? std::span<const std::byte>() : bytes_of(payload_));
}

std::optional<StepLane::Stop> StepLane::take_from_ring(StepEngine& engine, std::size_t shard,
                                                       bool& has_come) {
  RingReader& answers = rings_[shard]->answers;
  const RingReader::Taken taken = answers.take();
  if (taken == RingReader::Taken::kBroken) {
    throw std::runtime_error("shard " + std::to_string(shard) + ": its answers are none");
  }
  has_come = taken == RingReader::Taken::kHeader;
  if (!has_come) return std::nullopt;
  payloads_ = 0;
  answer_ = answers.header();
  return hand_on(engine, shard, {});
}

std::optional<StepLane::Stop> StepLane::hand_on(StepEngine& engine, std::size_t shard,
                                                std::span<const std::byte> payload) {
  quiet_since_ = Time::now();
  received_ = engine.receive(shard, answer_, payloads_, payload);
  if (received_ == Received::kTaken) return std::nullopt;
  shard_ = shard;
  return Stop::kAnswer;
}

}  // namespace leash::lane
