#include "lane/engines/shard_lane.h"

#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace leash::lane {
namespace {

constexpr std::size_t kMostFree = 64;       // payloads that are kept for later messages
constexpr std::size_t kMostRecords = 4096;  // what happened is told before it is more

double now_s() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

void delete_buffer(void*, void* buffer) { delete static_cast<Buffer*>(buffer); }

}  // namespace

ShardLane::ShardLane(const LibZmq& zmq, void* socket, Inbox& inbox, bool knows_senders)
    : zmq_(zmq), socket_(socket), inbox_(inbox), knows_senders_(knows_senders) {}

ShardLane::~ShardLane() {
  for (Buffer* buffer : idle_) delete buffer;
}

ShardLane::Turn ShardLane::serve(ShardEngine* engine, std::size_t most) {
  if (is_left_) return Turn::kRare;
  if (engine == nullptr || rings_.is_empty()) return serve_socket(engine, most);
  rings_are_first_ = !rings_are_first_;
  Turn turn = Turn::kIdle;
  for (const bool serves_rings : {rings_are_first_, !rings_are_first_}) {
    const Turn this_turn = serves_rings ? serve_rings(*engine, most) : serve_socket(engine, most);
    if (this_turn == Turn::kRare) return this_turn;
    if (this_turn == Turn::kMore) turn = this_turn;
  }
  return turn;
}

ShardLane::Turn ShardLane::serve_rings(ShardEngine& engine, std::size_t& most) {
  bool has_come = true;
  while (has_come && most > 0) {
    has_come = false;
    rings_.each([&](ServedRing& ring) {
      if (most == 0 || is_left_ || engine.records() >= kMostRecords) return false;
      if (!take(ring, engine)) return true;
      has_come = true;
      --most;
      return true;
    });
    if (is_left_) return Turn::kRare;
    if (engine.records() >= kMostRecords) return Turn::kMore;
  }
  return has_come || most == 0 ? Turn::kMore : Turn::kIdle;
}

// Returns whether a message had come.
bool ShardLane::take(ServedRing& ring, ShardEngine& engine) {
  if (ring.is_broken) return false;
  switch (ring.requests.take()) {
    case RingReader::Taken::kNothing:
      return false;
    case RingReader::Taken::kBroken:
      ring.is_broken = true;
      unreading_.push_back(ring.worker);
      return false;
    case RingReader::Taken::kHeader:
      break;
  }
  is_left_ = true;
  rare_ring_ = &ring;
  const Incoming message{ring.route, ring.requests.header(), nullptr, now_s(), ring.key};
  if (!engine.receive(message)) return true;
  is_left_ = false;
  send_answers(engine);
  return true;
}

void ShardLane::close_ring(std::uint32_t worker) {
  if (is_left_ && rare_ring_ != nullptr && rare_ring_->worker == worker) is_left_ = false;
  if (!is_left_) rare_ring_ = nullptr;
  rings_.close(worker);
}

void ShardLane::send_by_ring(std::string_view route, std::span<const std::byte> header) {
  ServedRing* const ring = rings_.find(route);
  if (ring == nullptr) return;  // its worker asks again by the next one, or is gone
  if (header.size() > kRingHeaderNbytes) {
    // A long refusal goes over the connection. Its peer may be gone, or not read: it will ask
    // again.
    if (send_frame(ring->socket_route, kZmqSendMore) == 0) {
      send_frame({reinterpret_cast<const char*>(header.data()), header.size()}, 0);
    }
  } else if (!ring->answers.put(header)) {
    unreading_.push_back(ring->worker);
  }
  ring->bell.ring();
}

ShardLane::Turn ShardLane::serve_socket(ShardEngine* engine, std::size_t& most) {
  for (; most > 0; --most) {
    if (engine != nullptr && engine->records() >= kMostRecords) return Turn::kMore;
    if (!inbox_.receive()) return Turn::kIdle;
    rare_ring_ = nullptr;
    has_surplus_ = false;
    payload_ = nullptr;
    if (inbox_.has_more()) {
      payload_ = make_payload();
      if (!payload_->receive(socket_)) {
        inbox_.drain();
        has_surplus_ = true;
      }
    }
    if (knows_senders_) sender_ = inbox_.route().user();
    is_left_ = true;
    if (engine == nullptr || has_surplus_) return Turn::kRare;
    Frame &route = inbox_.route(), &header = inbox_.header();
    const Incoming message{{route.data(), route.nbytes()},
                           {reinterpret_cast<const std::byte*>(header.data()), header.nbytes()},
                           payload_.get(),
                           now_s(),
                           sender_};
    if (!engine->receive(message)) return Turn::kRare;
    is_left_ = false;
    if (!inbox_.is_known()) inbox_.vouch();
    if (payload_ != nullptr) engine->drop(payload_.release());
    send_answers(*engine);
  }
  return Turn::kMore;
}

std::unique_ptr<PayloadBuffer> ShardLane::make_payload() {
  if (free_.empty()) return std::make_unique<PayloadBuffer>(zmq_);
  std::unique_ptr<PayloadBuffer> payload = std::move(free_.back());
  free_.pop_back();
  return payload;
}

// REQUIRES: nobody refers to it any more.
void ShardLane::recycle(Buffer* buffer) {
  auto* const payload = dynamic_cast<PayloadBuffer*>(buffer);
  if (payload == nullptr) {
    idle_.push_back(buffer);
  } else if (free_.size() < kMostFree) {
    payload->clear();
    free_.emplace_back(payload);
  } else {
    delete payload;
  }
}

void ShardLane::collect(ShardEngine& engine) {
  engine.take_idle(dropped_);
  for (Buffer* buffer : dropped_) recycle(buffer);
  dropped_.clear();
}

void ShardLane::send_answers(ShardEngine& engine) {
  engine.take_outgoing(outgoing_);
  for (OutgoingAnswer& answer : outgoing_) send(answer, engine);
  outgoing_.clear();
  collect(engine);
}

// Takes over the answer's reference to its payload.
void ShardLane::send(OutgoingAnswer& answer, ShardEngine& engine) {
  Buffer* const payload = std::exchange(answer.payload, nullptr);
  if (ServedRings::is_route(answer.route)) {
    engine.drop(payload);  // there is none: parameters lie in the segment
    send_by_ring(answer.route, answer.written().bytes());
    return;
  }
  if (const int error = send_frame(answer.route, kZmqSendMore); error != 0) {
    // A peer that is gone misses it, asks again when it comes back, or is evicted. One that reads
    // leaves room, since it has few requests in flight. This one's worker is to be evicted later:
    // now, that would release further answers while these are being sent.
    if (error == EAGAIN) {
      if (const std::uint32_t worker = answer.worker(); worker != 0) {
        unreading_.push_back(worker);
      } else {
        inbox_.condemn(answer.route, Reason::kUnread);  // any peer may get an error
      }
    }
    engine.drop(payload);
    return;
  }
  const HeaderBytes written = answer.written();
  const std::string_view header(reinterpret_cast<const char*>(written.bytes().data()),
                                written.bytes().size());
  send_frame(header, payload == nullptr ? 0 : kZmqSendMore);
  if (payload != nullptr) send_payload(payload, engine);
}

// Returns why the socket does not take it, or 0: EHOSTUNREACH if the peer of a message's first
// frame is gone, EAGAIN if it does not read. Further frames are always taken.
int ShardLane::send_frame(std::string_view bytes, int flags) {
  ZmqMessage frame;
  if (zmq_.msg_init_size(&frame, bytes.size()) != 0) throw std::bad_alloc();
  std::memcpy(zmq_.msg_data(&frame), bytes.data(), bytes.size());
  const int error = put(zmq_, frame, socket_, flags);
  if (error == 0) return 0;
  zmq_.msg_close(&frame);
  if (error != EAGAIN && error != EHOSTUNREACH) {
    throw std::runtime_error("zmq_msg_send: error " + std::to_string(error));
  }
  return error;
}

void ShardLane::send_payload(Buffer* payload, ShardEngine& engine) {
  const bool is_of_one = payload->has_one_reference();  // and not of several answers
  if (auto* const received = dynamic_cast<PayloadBuffer*>(payload); received && is_of_one) {
    received->send(socket_);
    engine.drop(received);
    return;
  }
  if (dynamic_cast<OwnBuffer*>(payload) == nullptr || !is_of_one) {
    // Others have it too, or know what it takes to free it.
    send_frame({reinterpret_cast<const char*>(payload->data()), payload->nbytes()}, 0);
    engine.drop(payload);
    return;
  }
  ZmqMessage frame;
  if (zmq_.msg_init_data(&frame, payload->data(), payload->nbytes(), delete_buffer, payload) != 0) {
    engine.drop(payload);
    throw std::bad_alloc();
  }
  if (const int error = put(zmq_, frame, socket_, 0); error != 0) {
    zmq_.msg_close(&frame);  // which frees the payload
    throw std::runtime_error("zmq_msg_send: error " + std::to_string(error));
  }
}

}  // namespace leash::lane
