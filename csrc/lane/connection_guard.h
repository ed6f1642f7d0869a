// A thread that looks at the connections of a ROUTER socket, many times a second, and closes those
// that cost the server more than a peer may. libzmq limits the size of a frame, and how many whole
// messages wait; it limits neither how long a message is whose end has not come, nor how many
// connections there are.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lane/connections.h"
#include "lane/libzmq.h"

namespace leash::lane {

// What the connections of a socket may cost. Bytes are those that travel.
struct Limits {
  std::size_t connections = 0;        // how many there may be
  std::size_t message_nbytes = 0;     // of the longest message
  std::size_t backlog_nbytes = 0;     // sent by one peer while the server takes nothing
  std::size_t unfinished_nbytes = 0;  // of messages whose end has not come, over all connections
};

// What the thread that takes messages tells the guard, and the other way round.
struct Progress {
  std::atomic<std::uint64_t> taken = 0;  // messages
  // The guard asks whether no message waits; the other thread answers that question if so.
  std::atomic<std::uint64_t> question = 0;
  std::atomic<std::uint64_t> answered = 0;
};

// The connections that were closed: how many for each reason, and some of them with their peers.
struct Closed {
  std::array<std::uint64_t, kReasons> counts = {};
  std::vector<std::pair<Reason, std::string>> examples;
};

class ConnectionGuard {
 public:
  // monitor: the address at which the socket tells events; it does so already.
  // Throws std::runtime_error if there is no going there, or no descriptor is left.
  ConnectionGuard(const LibZmq& zmq, void* context, const std::string& monitor,
                  const Limits& limits);
  ~ConnectionGuard();
  ConnectionGuard(const ConnectionGuard&) = delete;
  ConnectionGuard& operator=(const ConnectionGuard&) = delete;

  // Looks at the connections of this port from now on.
  void begin(std::uint16_t port);

  // Ends the thread. A second call does nothing.
  void end() noexcept;

  Connections& connections() { return *connections_; }
  Progress& progress() { return progress_; }

  // Readable when there is a question.
  int question_fd() const { return question_fd_; }

  // How many connections ended in the handshake since the last call: with keys, those of strangers.
  std::uint64_t take_refused() { return refused_.exchange(0); }

  // What was closed since the last call.
  Closed take_closed();

 private:
  void run();
  void note_events();
  void note_accepted(int fd);
  void note_disconnected(int fd);
  void look();
  bool look_at(Connection& connection);
  bool is_proven_unfinished(const Connection& connection) const;
  void ask();
  void close(Connection& connection, Reason reason);
  void close_stalest();

  const LibZmq& zmq_;
  const Limits limits_;
  void* monitor_ = nullptr;
  int question_fd_ = -1;
  int ending_fd_ = -1;
  int process_ = 0;  // a fork has the memory, and not the thread
  std::unique_ptr<Connections> connections_;
  Progress progress_;
  std::unique_ptr<std::thread> thread_;

  // Of the thread.
  long looks_ = 0;
  bool is_hurried_ = false;   // whether it looks at some connections each time, and not rarely
  std::vector<int> leaving_;  // ZeroMQ was about to close them

  std::atomic<std::uint64_t> refused_ = 0;
  std::mutex closed_mutex_;
  Closed closed_;
};

}  // namespace leash::lane
