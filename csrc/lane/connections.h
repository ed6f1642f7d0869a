// The TCP connections of one listening socket of ZeroMQ. They belong to ZeroMQ, which closes their
// descriptors at any time; the system then gives the same number to something else. So whatever is
// done to one is done to a duplicate of the descriptor that has shown to be that connection, by the
// cookie that the kernel gives each socket.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace leash::lane {

using Clock = std::chrono::steady_clock;

// Why a connection is closed.
enum class Reason : std::uint8_t {
  kNone,
  kUnfinished,  // a message longer than any, whose end has not come
  kBacklog,     // it has sent more than it may while the server took nothing
  kFrames,      // a message of far too many frames
  kRefused,     // too many messages that were refused
  kFailed,      // a message at which the server itself failed
  kUnread,      // it does not read its answers
  kCrowd        // there are too many connections
};
inline constexpr std::size_t kReasons = 8;
const char* name_of(Reason reason);

struct Connection {
  Connection(int of_fd, std::uint64_t of_cookie, std::string of_host)
      : fd(of_fd), cookie(of_cookie), host(std::move(of_host)) {}

  const int fd;
  const std::uint64_t cookie;  // 0 of one that is unknown
  const std::string host;      // the peer's address

  // Written by the thread that takes messages.
  std::atomic<std::uint64_t> messages = 0;        // that were taken
  std::atomic<bool> is_member = false;            // whether it has sent what only a member can
  std::atomic<Reason> condemned = Reason::kNone;  // it is to be closed at the next look
  double refusals_left = 0;                       // see Inbox
  Clock::time_point refused = {};

  // Written by the guard.
  std::atomic<bool> is_gone = false;  // ZeroMQ has closed it
  bool is_closed = false;             // by us; ZeroMQ will notice
  std::uint64_t order = 0;            // of those that came before
  std::uint64_t looked_messages = 0;  // of `messages`, when it looked last
  long active = 0;                    // the look at which a message had been taken, the last such
  std::uint64_t base_nbytes = 0;      // how much ZeroMQ had read when a message was taken last
  std::uint64_t pending_nbytes = 0;   // how much it has read since
  bool is_marked = false;             // there was much when it looked, and these were:
  std::uint64_t marked_question = 0;
  std::uint64_t marked_taken = 0;
};

// How many bytes of a connection ZeroMQ has read. False if the descriptor is another's by now.
bool read_nbytes(const Connection& connection, std::uint64_t& nbytes);

// Ends a connection both ways, as if the peer had gone. False if it has gone.
bool end(const Connection& connection);

// For any thread.
class Connections {
 public:
  // The connections to this port of the host.
  explicit Connections(std::uint16_t port) : port_(port) {}

  // The connection that this descriptor is now; nullptr if it is none of this port's.
  std::shared_ptr<Connection> find(int fd);

  void remove(const Connection& connection);

  // Those that are known. ZeroMQ may have closed some.
  std::vector<std::shared_ptr<Connection>> all() const;
  std::size_t size() const;

 private:
  const std::uint16_t port_;
  mutable std::mutex mutex_;
  std::unordered_map<int, std::shared_ptr<Connection>> by_fd_;
  std::uint64_t next_order_ = 0;
};

}  // namespace leash::lane
