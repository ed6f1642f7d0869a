// Moves messages between the data socket of a shard and its engine, without Python.
//
//   ROUTER ──▸ Inbox ──▸ ShardEngine ──▸ answers ──▸ ROUTER
//   rings  ────────────▸      │                 └──▸ rings
//                             └─ what it does not take is left for others, who take_rare()
//
// The rings of workers on this host bring the same headers as the socket, and take the same
// answers.
//
// For the thread that uses the socket.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/shard_engine/shard_engine.h"
#include "lane/engines/payload_buffer.h"
#include "lane/engines/served_rings.h"
#include "lane/inbox.h"
#include "lane/libzmq.h"

namespace leash::lane {

class ShardLane {
 public:
  // What a turn came to.
  enum class Turn : std::uint8_t {
    kIdle,  // no message waits
    kRare,  // a message is left for others: until they have taken it, all wait behind it
    kMore   // more messages may wait
  };

  // knows_senders: whether the socket lets in those alone who have a key.
  ShardLane(const LibZmq& zmq, void* socket, Inbox& inbox, bool knows_senders);
  ~ShardLane();
  ShardLane(const ShardLane&) = delete;
  ShardLane& operator=(const ShardLane&) = delete;

  // Hands messages that have come to the engine, at most so many, and sends what it answers. The
  // engine may be null: there is no model yet. Ends early once the engine has that many records.
  //
  // Whatever the engine throws comes through; the message is left then.
  Turn serve(ShardEngine* engine, std::size_t most);

  ServedRings& rings() { return rings_; }
  // Closes a worker's ring, whose memory may go then.
  void close_ring(std::uint32_t worker);
  // Sends an answer by a ring, if it is still open. REQUIRES: ServedRings::is_route(route).
  void send_by_ring(std::string_view route, std::span<const std::byte> header);

  // Sends what the engine has to send, which may come of other calls.
  void send_answers(ShardEngine& engine);

  // Takes the message that was left. Route and header are in the inbox until the next turn, unless
  // it came by a ring. Returns its payload, with one reference; null if it has none.
  std::unique_ptr<PayloadBuffer> take_rare() {
    is_left_ = false;
    return std::move(payload_);
  }
  // The ring by which the newest message came; null if that was the socket.
  const ServedRing* rare_ring() const { return rare_ring_; }
  bool has_surplus() const { return has_surplus_; }    // it had further frames, which are dropped
  std::string_view sender() const { return sender_; }  // its key; empty without keys

  // The workers that have left no room for their answers since the last call.
  std::vector<std::uint32_t> take_unreading() { return std::exchange(unreading_, {}); }

  // Buffers that nobody needs any more, and that are not the lane's own.
  std::vector<Buffer*> take_idle() { return std::exchange(idle_, {}); }

 private:
  Turn serve_socket(ShardEngine* engine, std::size_t& most);
  Turn serve_rings(ShardEngine& engine, std::size_t& most);
  bool take(ServedRing& ring, ShardEngine& engine);
  std::unique_ptr<PayloadBuffer> make_payload();
  void recycle(Buffer* buffer);
  void collect(ShardEngine& engine);
  void send(OutgoingAnswer& answer, ShardEngine& engine);
  int send_frame(std::string_view bytes, int flags);
  void send_payload(Buffer* payload, ShardEngine& engine);

  const LibZmq& zmq_;
  void* const socket_;
  Inbox& inbox_;
  const bool knows_senders_;
  ServedRings rings_;
  const ServedRing* rare_ring_ = nullptr;
  bool rings_are_first_ = false;            // they and the socket take turns
  std::unique_ptr<PayloadBuffer> payload_;  // of the newest message
  bool is_left_ = false;                    // for others, who have not taken it yet
  bool has_surplus_ = false;
  std::string sender_;
  std::vector<std::uint32_t> unreading_;

  // Kept for the next message.
  std::vector<std::unique_ptr<PayloadBuffer>> free_;
  std::vector<OutgoingAnswer> outgoing_;
  std::vector<Buffer*> dropped_;
  std::vector<Buffer*> idle_;
};

}  // namespace leash::lane
