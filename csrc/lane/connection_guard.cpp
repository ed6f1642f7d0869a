#include "lane/connection_guard.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <tuple>

namespace leash::lane {
namespace {

constexpr long kLookMs = 20;
// Members cost what their window allows, so that it looks at them less often.
constexpr long kLooksForMembers = 10;
// Less than this is no reason to ask whether a message waits.
constexpr std::uint64_t kWorthAsking = 64 * 1024;
constexpr std::size_t kMostExamples = 16;

int new_eventfd() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw std::runtime_error("eventfd: no descriptor is left");
  return fd;
}

void signal(int fd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto nbytes = ::write(fd, &one, sizeof(one));  // it is set already if full
}

}  // namespace

ConnectionGuard::ConnectionGuard(const LibZmq& zmq, void* context, const std::string& monitor,
                                 const Limits& limits)
    : zmq_(zmq), limits_(limits), process_(getpid()) {
  monitor_ = zmq_.socket(context, kZmqPair);
  if (monitor_ == nullptr) throw std::runtime_error("zmq_socket: no socket for the monitor");
  const int no_linger = 0;
  zmq_.setsockopt(monitor_, kZmqLinger, &no_linger, sizeof(no_linger));
  try {
    if (zmq_.connect(monitor_, monitor.c_str()) != 0) {
      throw std::runtime_error("zmq_connect: no monitor at " + monitor);
    }
    question_fd_ = new_eventfd();
    ending_fd_ = new_eventfd();
  } catch (...) {
    end();
    throw;
  }
}

ConnectionGuard::~ConnectionGuard() {
  end();
  if (question_fd_ >= 0) ::close(question_fd_);
  if (ending_fd_ >= 0) ::close(ending_fd_);
}

void ConnectionGuard::begin(std::uint16_t port) {
  connections_ = std::make_unique<Connections>(port);
  thread_ = std::make_unique<std::thread>([this] { run(); });
}

void ConnectionGuard::end() noexcept {
  if (getpid() != process_) {
    static_cast<void>(thread_.release());  // this process has no such thread
    monitor_ = nullptr;
    return;
  }
  if (thread_ != nullptr) {
    signal(ending_fd_);
    thread_->join();
    thread_.reset();
  }
  if (monitor_ != nullptr) zmq_.close(monitor_);
  monitor_ = nullptr;
}

void ConnectionGuard::run() {
  auto next_look = Clock::now();
  while (true) {
    const bool is_alone = connections_->size() == 0;
    const long wait_ms = is_alone ? -1 : is_hurried_ ? kLookMs : kLooksForMembers * kLookMs;
    ZmqPollItem items[] = {{monitor_, -1, kZmqPollIn, 0}, {nullptr, ending_fd_, kZmqPollIn, 0}};
    if (zmq_.poll(items, 2, wait_ms) < 0 && zmq_.error() != EINTR) return;  // the context has ended
    if (items[1].revents != 0) return;
    if (items[0].revents != 0) note_events();
    if (Clock::now() < next_look) continue;
    look();
    next_look = Clock::now() + std::chrono::milliseconds(kLookMs);
  }
}

// An event is a frame with its number (u16) and a value (u32), and one with an address.
void ConnectionGuard::note_events() {
  Frame frame(zmq_);
  while (frame.receive(monitor_)) {
    std::uint16_t event = 0;
    std::uint32_t value = 0;
    if (frame.nbytes() == sizeof(event) + sizeof(value)) {
      std::memcpy(&event, frame.data(), sizeof(event));
      std::memcpy(&value, frame.data() + sizeof(event), sizeof(value));
    }
    while (frame.more()) frame.receive_rest(monitor_);
    if ((event & kZmqHandshakeFailures) != 0) ++refused_;
    if (event == kZmqEventAccepted) note_accepted(static_cast<int>(value));
    if (event == kZmqEventDisconnected) note_disconnected(static_cast<int>(value));
  }
}

void ConnectionGuard::note_accepted(int fd) {
  if (connections_->find(fd) == nullptr) return;  // it has gone already
  is_hurried_ = true;
  if (connections_->size() > limits_.connections) close_stalest();
}

// ZeroMQ tells it before it closes the descriptor.
void ConnectionGuard::note_disconnected(int fd) { leaving_.push_back(fd); }

void ConnectionGuard::look() {
  ++looks_;
  for (const int fd : leaving_) connections_->find(fd);  // forgets those that have gone
  leaving_.clear();
  const bool looks_at_members = !is_hurried_ || looks_ % kLooksForMembers == 0;
  bool asks = false;
  is_hurried_ = false;
  std::uint64_t unfinished_nbytes = 0;
  std::shared_ptr<Connection> longest;
  for (const auto& connection : connections_->all()) {
    const bool is_member = connection->is_member.load(std::memory_order_relaxed);
    is_hurried_ |= !is_member || connection->is_marked;
    const Reason condemned = connection->condemned.load(std::memory_order_acquire);
    if (condemned != Reason::kNone) {
      close(*connection, condemned);
      continue;
    }
    if (is_member && !looks_at_members && !connection->is_marked) continue;
    asks |= look_at(*connection);
    if (connection->is_closed || !is_proven_unfinished(*connection)) continue;
    unfinished_nbytes += connection->pending_nbytes;
    if (longest == nullptr || longest->pending_nbytes < connection->pending_nbytes) {
      longest = connection;
    }
  }
  if (unfinished_nbytes > limits_.unfinished_nbytes) close(*longest, Reason::kUnfinished);
  if (asks) ask();
}

// Returns whether it has to be known if no message waits.
bool ConnectionGuard::look_at(Connection& connection) {
  std::uint64_t nbytes = 0;
  if (!read_nbytes(connection, nbytes)) {
    connections_->remove(connection);
    return false;
  }
  // A message that was taken is one whose end had come: what was read before it is over. Of what
  // was read since it was taken, some may be counted as over, up to the next look.
  const auto messages = connection.messages.load(std::memory_order_acquire);
  if (messages != connection.looked_messages) {
    connection.looked_messages = messages;
    connection.active = looks_;
    connection.base_nbytes = nbytes;
    connection.is_marked = false;
  }
  connection.pending_nbytes = nbytes - std::min(nbytes, connection.base_nbytes);
  if (connection.pending_nbytes < kWorthAsking) return false;
  if (!connection.is_marked) {
    connection.is_marked = true;
    connection.marked_question = progress_.question.load() + 1;
    connection.marked_taken = progress_.taken.load();
    return true;
  }
  if (is_proven_unfinished(connection)) {
    if (connection.pending_nbytes > limits_.message_nbytes) close(connection, Reason::kUnfinished);
    return false;
  }
  if (connection.pending_nbytes > limits_.backlog_nbytes) close(connection, Reason::kBacklog);
  return true;
}

// No message has been taken of it since it was marked, though none waits, or messages have been
// taken from all others twice: ROUTER takes them from its peers in turn.
bool ConnectionGuard::is_proven_unfinished(const Connection& connection) const {
  if (!connection.is_marked) return false;
  if (progress_.answered.load() > connection.marked_question) return true;
  const std::uint64_t taken = progress_.taken.load() - connection.marked_taken;
  return taken > 2 * connections_->size() + 2;
}

void ConnectionGuard::ask() {
  progress_.question.fetch_add(1);
  signal(question_fd_);
}

void ConnectionGuard::close(Connection& connection, Reason reason) {
  if (connection.is_closed) {
    if (std::uint64_t nbytes = 0; !read_nbytes(connection, nbytes)) {
      connections_->remove(connection);
    }
    return;
  }
  connection.is_closed = true;
  connection.condemned.store(reason, std::memory_order_release);
  if (!leash::lane::end(connection)) {
    connections_->remove(connection);
    return;
  }
  const std::lock_guard lock(closed_mutex_);
  ++closed_.counts[static_cast<std::size_t>(reason)];
  if (closed_.examples.size() < kMostExamples) {
    closed_.examples.emplace_back(reason, connection.host);
  }
}

// Strangers first, and of these the ones that have said nothing, the oldest first: a newcomer that
// means well soon speaks. Of those that have spoken, the one that has been silent for the longest.
void ConnectionGuard::close_stalest() {
  std::shared_ptr<Connection> stalest;
  std::size_t open = 0;
  for (const auto& connection : connections_->all()) {
    if (connection->is_closed) continue;
    ++open;
    const auto place = [](const Connection& c) {
      return std::tuple(c.is_member.load(std::memory_order_relaxed), c.active, c.order);
    };
    if (stalest == nullptr || place(*connection) < place(*stalest)) stalest = connection;
  }
  if (open > limits_.connections) close(*stalest, Reason::kCrowd);
}

Closed ConnectionGuard::take_closed() {
  const std::lock_guard lock(closed_mutex_);
  return std::exchange(closed_, {});
}

}  // namespace leash::lane
