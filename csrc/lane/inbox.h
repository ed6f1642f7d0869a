// Takes the messages of a ROUTER socket up to their payload, which pyzmq takes, since that memory
// goes on to the answer. For the thread that uses the socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "lane/connection_guard.h"
#include "lane/connections.h"
#include "lane/libzmq.h"

namespace leash::lane {

// A message of so many frames beyond those that any has is refused; of more it costs the sender its
// connection.
inline constexpr std::size_t kMostSurplusFrames = 1024;

// How many messages may be refused: at once, and in each second. Of one connection, and of all.
struct RefusalLimits {
  double at_once;
  double per_second;
};
inline constexpr RefusalLimits kRefusalsOfOne{4096, 256};
inline constexpr RefusalLimits kRefusalsOfAll{32768, 1024};

class Inbox {
 public:
  // The guard has begun, and outlives it.
  Inbox(const LibZmq& zmq, void* socket, ConnectionGuard& guard);

  // Takes route and header of the next message; false if none has come. Drops the messages of
  // connections that are to be closed. If has_more(), the rest is still to be taken: its first
  // frame, which is here, and then drain().
  bool receive();
  Frame& route() { return route_; }
  Frame& header() { return header_; }
  bool has_more() const { return header_.more(); }
  // Whether the sender needs no vouch(): it is a member, or nobody knows its connection any more.
  bool is_known() const {
    return sender_ == stranger_.get() || sender_->is_member.load(std::memory_order_relaxed);
  }

  // Drops the further frames of the message. REQUIRES: the one that was taken last is not its last.
  void drain();

  // About the sender of the message that was taken last.
  void vouch();                 // it is a member
  void refuse();                // its message was refused
  void condemn(Reason reason);  // its connection is to be closed

  // The connection with this route, which may have sent others since, is to be closed.
  void condemn(std::string_view route, Reason reason);

  // Whether the connection with this route stands, of which a message was taken. Not of one that
  // nobody knows.
  bool is_connected(std::string_view route) const;

  // Answers the guard's question, if no message waits now.
  void attend();

 private:
  void find_sender();
  void condemn(Connection& connection, Reason reason);
  void forget_the_gone();

  const LibZmq& zmq_;
  void* const socket_;
  ConnectionGuard& guard_;
  Frame route_;
  Frame header_;
  // By the number in its route, which ROUTER gives to one connection only.
  std::unordered_map<std::uint32_t, std::shared_ptr<Connection>> senders_;
  std::shared_ptr<Connection> stranger_;  // stands for those that have gone before their message
  Connection* sender_;                    // of the message that was taken last
  double refusals_left_;
  Clock::time_point refused_;
};

}  // namespace leash::lane
