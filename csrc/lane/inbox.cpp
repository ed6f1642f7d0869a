#include "lane/inbox.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace leash::lane {
namespace {

constexpr std::size_t kRouteNbytes = 5;    // a zero, and a number
constexpr std::size_t kMostDropped = 256;  // messages in a row, before others have their turn

double seconds_between(Clock::time_point first, Clock::time_point second) {
  return std::chrono::duration<double>(second - first).count();
}

// ROUTER gives each connection a number.
std::uint32_t number_in(std::string_view route) {
  std::uint32_t number = 0;
  if (route.size() == kRouteNbytes) std::memcpy(&number, route.data() + 1, sizeof(number));
  return number;
}

// Takes one of what is left; false if nothing is.
bool spend(double& left, Clock::time_point& spent, Clock::time_point now, RefusalLimits limits) {
  left = std::min(limits.at_once, left + limits.per_second * seconds_between(spent, now));
  spent = now;
  if (left < 1) return false;
  left -= 1;
  return true;
}

}  // namespace

Inbox::Inbox(const LibZmq& zmq, void* socket, ConnectionGuard& guard)
    : zmq_(zmq),
      socket_(socket),
      guard_(guard),
      route_(zmq),
      header_(zmq),
      stranger_(std::make_shared<Connection>(-1, 0, "")),
      sender_(stranger_.get()),
      refusals_left_(kRefusalsOfAll.at_once),
      refused_(Clock::now()) {}

bool Inbox::receive() {
  for (std::size_t dropped = 0; dropped < kMostDropped; ++dropped) {
    if (!route_.receive(socket_)) return false;
    find_sender();
    sender_->messages.fetch_add(1, std::memory_order_release);
    guard_.progress().taken.fetch_add(1, std::memory_order_relaxed);
    header_.receive_rest(socket_);  // ROUTER puts the route before a message
    if (sender_->condemned.load(std::memory_order_relaxed) == Reason::kNone) return true;
    if (header_.more()) drain();
  }
  return false;
}

void Inbox::find_sender() {
  const std::uint32_t number = number_in({route_.data(), route_.nbytes()});
  const auto known = senders_.find(number);
  if (known != senders_.end()) {
    sender_ = known->second.get();
    return;
  }
  if (senders_.size() > 2 * guard_.connections().size() + 64) forget_the_gone();
  std::shared_ptr<Connection> sender = guard_.connections().find(route_.fd());
  // The descriptor may be another connection's by now.
  if (sender == nullptr || sender->host != route_.peer()) sender = stranger_;
  if (sender != stranger_ && sender->refused == Clock::time_point()) {
    sender->refusals_left = kRefusalsOfOne.at_once;
    sender->refused = Clock::now();
  }
  sender_ = sender.get();
  senders_.emplace(number, std::move(sender));
}

void Inbox::forget_the_gone() {
  std::erase_if(senders_, [&](const auto& entry) {
    return entry.second == stranger_ || entry.second->is_gone.load();
  });
}

void Inbox::drain() {
  Frame surplus(zmq_);
  std::size_t frames = 0;
  do {
    surplus.receive_rest(socket_);
    ++frames;
  } while (surplus.more());
  if (frames > kMostSurplusFrames) condemn(Reason::kFrames);
}

void Inbox::vouch() {
  if (sender_ != stranger_.get()) sender_->is_member.store(true, std::memory_order_relaxed);
}

void Inbox::refuse() {
  if (sender_ == stranger_.get()) return;
  const auto now = Clock::now();
  const bool all = spend(refusals_left_, refused_, now, kRefusalsOfAll);
  const bool own = spend(sender_->refusals_left, sender_->refused, now, kRefusalsOfOne);
  if (!all || !own) condemn(Reason::kRefused);
}

void Inbox::condemn(Reason reason) { condemn(*sender_, reason); }

void Inbox::condemn(std::string_view route, Reason reason) {
  const auto known = senders_.find(number_in(route));
  if (known != senders_.end()) condemn(*known->second, reason);
}

bool Inbox::is_connected(std::string_view route) const {
  const auto known = senders_.find(number_in(route));
  return known != senders_.end() && known->second != stranger_ && !known->second->is_gone.load();
}

void Inbox::condemn(Connection& connection, Reason reason) {
  if (&connection == stranger_.get()) return;
  Reason none = Reason::kNone;
  connection.condemned.compare_exchange_strong(none, reason);
}

void Inbox::attend() {
  std::uint64_t asked = 0;
  [[maybe_unused]] const auto nbytes = ::read(guard_.question_fd(), &asked, sizeof(asked));
  const std::uint64_t question = guard_.progress().question.load();
  int events = 0;
  std::size_t size = sizeof(events);
  if (zmq_.getsockopt(socket_, kZmqEvents, &events, &size) != 0) return;
  if ((events & kZmqPollIn) == 0) guard_.progress().answered.store(question);
}

}  // namespace leash::lane
