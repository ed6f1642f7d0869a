#include "lane/echo.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace leash::lane {
namespace {

using Time = std::chrono::steady_clock;

constexpr std::size_t kHeaderNbytes = 96;
constexpr long kForever = -1;

// Returns whether something can be read; false if a signal came first.
bool wait(const LibZmq& zmq, void* socket) {
  ZmqPollItem item{socket, -1, kZmqPollIn, 0};
  if (zmq.poll(&item, 1, kForever) >= 0) return true;
  const int error = zmq.error();
  if (error == EINTR) return false;
  throw std::runtime_error("zmq_poll: error " + std::to_string(error));
}

}  // namespace

void EchoServer::serve() {
  do {
    while (send_back()) {
    }
  } while (wait(zmq_, socket_));
}

// Returns whether a message had come.
bool EchoServer::send_back() {
  if (!inbox_.receive()) return false;
  const bool has_payload = inbox_.has_more();
  if (has_payload) payload_.receive_rest(socket_);
  if (has_payload && payload_.more()) inbox_.drain();
  // Like a lane it drops what a peer that is gone, or does not read, would have got.
  if (inbox_.route().send(socket_, kZmqSendMore) != 0) return true;
  inbox_.header().send(socket_, has_payload ? kZmqSendMore : 0);
  if (has_payload) payload_.send(socket_, 0);
  return true;
}

EchoWorker::EchoWorker(const LibZmq& zmq, void* socket, std::span<std::byte> memory,
                       const EchoSettings& settings, Loan& loan)
    : zmq_(zmq),
      socket_(socket),
      memory_(memory),
      settings_(settings),
      chunks_((memory.size() + settings.chunk_nbytes - 1) / settings.chunk_nbytes),
      loan_(loan),
      frame_(zmq) {}

std::span<std::byte> EchoWorker::chunk(std::size_t number) const {
  const std::size_t begin = number * settings_.chunk_nbytes;
  return memory_.subspan(begin, std::min(settings_.chunk_nbytes, memory_.size() - begin));
}

bool EchoWorker::exchange() {
  while (received_ < chunks_) {
    while (sent_ < chunks_ && sent_ < received_ + settings_.window) send(chunk(sent_++));
    const Time::time_point began = Time::now();
    while (!receive_soon()) {
      if (!wait(zmq_, socket_)) return false;
    }
    newest_s_ = std::chrono::duration<double>(Time::now() - began).count();
    if (frame_.more()) frame_.receive_rest(socket_);
    const std::span<std::byte> place = chunk(received_++);
    if (frame_.more() || frame_.nbytes() != place.size()) {
      throw std::runtime_error("what came back is not what was sent");
    }
    std::memcpy(place.data(), frame_.data(), place.size());
  }
  sent_ = received_ = 0;
  return true;
}

// Whether the next header has come. Spins for that of the last chunk if the newest took so long
// only.
bool EchoWorker::receive_soon() {
  const bool spins = received_ + 1 == chunks_ && newest_s_ < settings_.spin_s;
  const Time::time_point until = Time::now() + std::chrono::duration_cast<Time::duration>(
                                                   std::chrono::duration<double>(settings_.spin_s));
  do {
    if (frame_.receive(socket_)) return true;
  } while (spins && Time::now() < until);
  return false;
}

void EchoWorker::send(std::span<std::byte> chunk) {
  ZmqMessage header;
  if (zmq_.msg_init_size(&header, kHeaderNbytes) != 0) throw std::bad_alloc();
  std::memset(zmq_.msg_data(&header), 0, kHeaderNbytes);
  hand_over(header, kZmqSendMore);
  ZmqMessage payload;
  if (chunk.size() < settings_.copy_below_nbytes) {
    if (zmq_.msg_init_size(&payload, chunk.size()) != 0) throw std::bad_alloc();
    std::memcpy(zmq_.msg_data(&payload), chunk.data(), chunk.size());
  } else {
    if (zmq_.msg_init_data(&payload, chunk.data(), chunk.size(), &Loan::give_back, &loan_) != 0) {
      throw std::bad_alloc();
    }
    loan_.lend();
  }
  hand_over(payload, 0);
}

void EchoWorker::hand_over(ZmqMessage& frame, int flags) {
  const int error = put(zmq_, frame, socket_, flags);
  if (error == 0) return;
  zmq_.msg_close(&frame);
  throw std::runtime_error("zmq_msg_send: error " + std::to_string(error));
}

}  // namespace leash::lane
