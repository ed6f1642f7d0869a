#include "lane/connections.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace leash::lane {
namespace {

// A duplicate of a descriptor, of which nobody else knows.
class Duplicate {
 public:
  explicit Duplicate(int fd) : fd_(fcntl(fd, F_DUPFD_CLOEXEC, 3)) {}
  ~Duplicate() {
    if (fd_ >= 0) ::close(fd_);
  }
  Duplicate(const Duplicate&) = delete;
  Duplicate& operator=(const Duplicate&) = delete;

  int get() const { return fd_; }

 private:
  const int fd_;
};

// 0 if the descriptor is no socket.
std::uint64_t cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t nbytes = sizeof(cookie);
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &nbytes) == 0 ? cookie : 0;
}

std::uint16_t port_of(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  }
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return 0;
}

// The peer of a connection to this port, as ZeroMQ writes addresses; empty if it is none.
std::string peer_of(int fd, std::uint16_t port) {
  sockaddr_storage own{}, peer{};
  socklen_t own_nbytes = sizeof(own), peer_nbytes = sizeof(peer);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_nbytes) != 0) return {};
  if (port_of(own) != port) return {};
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_nbytes) != 0) return {};
  char host[NI_MAXHOST] = {};
  if (getnameinfo(reinterpret_cast<sockaddr*>(&peer), peer_nbytes, host, sizeof(host), nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    return {};
  }
  return host;
}

}  // namespace

const char* name_of(Reason reason) {
  switch (reason) {
    case Reason::kUnfinished:
      return "unfinished";
    case Reason::kBacklog:
      return "backlog";
    case Reason::kFrames:
      return "frames";
    case Reason::kRefused:
      return "refused";
    case Reason::kFailed:
      return "failed";
    case Reason::kUnread:
      return "unread";
    case Reason::kCrowd:
      return "crowd";
    case Reason::kNone:
      break;
  }
  return "";
}

bool read_nbytes(const Connection& connection, std::uint64_t& nbytes) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  int unread = 0;  // what still lies in the kernel costs the server nothing
  if (getsockopt(connection.fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return false;
  if (ioctl(connection.fd, SIOCINQ, &unread) != 0) return false;
  if (cookie_of(connection.fd) != connection.cookie) return false;
  const auto waiting = static_cast<std::uint64_t>(std::max(unread, 0));
  nbytes = info.tcpi_bytes_received > waiting ? info.tcpi_bytes_received - waiting : 0;
  return true;
}

bool end(const Connection& connection) {
  const Duplicate duplicate(connection.fd);
  if (duplicate.get() < 0 || cookie_of(duplicate.get()) != connection.cookie) return false;
  return ::shutdown(duplicate.get(), SHUT_RDWR) == 0;
}

std::shared_ptr<Connection> Connections::find(int fd) {
  const Duplicate duplicate(fd);
  const std::uint64_t cookie = duplicate.get() < 0 ? 0 : cookie_of(duplicate.get());
  const std::lock_guard lock(mutex_);
  const auto known = by_fd_.find(fd);
  if (known != by_fd_.end()) {
    if (cookie != 0 && known->second->cookie == cookie) return known->second;
    known->second->is_gone = true;
    by_fd_.erase(known);
  }
  if (cookie == 0) return nullptr;
  std::string peer = peer_of(duplicate.get(), port_);
  if (peer.empty()) return nullptr;
  auto connection = std::make_shared<Connection>(fd, cookie, std::move(peer));
  connection->order = next_order_++;
  by_fd_.emplace(fd, connection);
  return connection;
}

void Connections::remove(const Connection& connection) {
  const std::lock_guard lock(mutex_);
  const auto known = by_fd_.find(connection.fd);
  if (known == by_fd_.end() || known->second->cookie != connection.cookie) return;
  known->second->is_gone = true;
  by_fd_.erase(known);
}

std::vector<std::shared_ptr<Connection>> Connections::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Connection>> found;
  found.reserve(by_fd_.size());
  for (const auto& [fd, connection] : by_fd_) found.push_back(connection);
  return found;
}

std::size_t Connections::size() const {
  const std::lock_guard lock(mutex_);
  return by_fd_.size();
}

}  // namespace leash::lane
