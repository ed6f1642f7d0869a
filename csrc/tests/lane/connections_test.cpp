#include "lane/connections.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using leash::lane::Connection;
using leash::lane::Connections;

namespace {

// A server at a free port of this machine, and its connections. What ZeroMQ would own, it owns.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t nbytes = sizeof(address);
    REQUIRE(bind(fd_, reinterpret_cast<sockaddr*>(&address), nbytes) == 0);
    REQUIRE(listen(fd_, 64) == 0);
    REQUIRE(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &nbytes) == 0);
    address_ = address;
  }
  ~Listener() { close(fd_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  std::uint16_t port() const { return ntohs(address_.sin_port); }

  struct Pair {
    int peer;
    int own;
  };
  Pair connect() const {
    const int peer = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(::connect(peer, reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)) == 0);
    return {peer, accept(fd_, nullptr, nullptr)};
  }

 private:
  int fd_;
  sockaddr_in address_{};
};

// Whether the peer sees the end of its connection.
bool sees_the_end(int peer) {
  char byte = 0;
  return recv(peer, &byte, 1, MSG_DONTWAIT) == 0;
}

}  // namespace

TEST_CASE("A connection is known by its descriptor, and by the host of its peer") {
  const Listener listener;
  Connections connections(listener.port());
  const auto [peer, own] = listener.connect();
  const auto found = connections.find(own);
  REQUIRE(found != nullptr);
  CHECK(found->host == "127.0.0.1");
  CHECK(connections.find(own) == found);
  CHECK(connections.size() == 1);
  close(peer);
  close(own);
}

TEST_CASE("What is no connection to this port is not found") {
  const Listener listener, other;
  Connections connections(listener.port());
  const auto [peer, own] = other.connect();
  int pipe_fds[2];
  REQUIRE(pipe(pipe_fds) == 0);
  for (const int fd : {-1, 1 << 20, own, peer, pipe_fds[0]}) CHECK(connections.find(fd) == nullptr);
  CHECK(connections.size() == 0);
  for (const int fd : {peer, own, pipe_fds[0], pipe_fds[1]}) close(fd);
}

TEST_CASE("Another connection with the descriptor of one that is gone is left alone") {
  const Listener listener;
  Connections connections(listener.port());
  const auto [first_peer, own] = listener.connect();
  const auto first = connections.find(own);
  REQUIRE(first != nullptr);
  const auto [second_peer, again] = listener.connect();
  REQUIRE(dup2(again, own) == own);  // which closes the first, and gives its number to the second
  close(again);
  std::uint64_t nbytes = 0;
  CHECK(!leash::lane::read_nbytes(*first, nbytes));
  CHECK(!leash::lane::end(*first));
  CHECK(!sees_the_end(second_peer));
  const auto second = connections.find(own);
  REQUIRE(second != nullptr);
  CHECK(second != first);
  CHECK(first->is_gone);
  connections.remove(*first);  // which comes late
  CHECK(connections.size() == 1);
  CHECK(leash::lane::end(*second));
  CHECK(sees_the_end(second_peer));
  for (const int fd : {first_peer, second_peer, own}) close(fd);
}

TEST_CASE("What lies unread in the kernel was not read") {
  const Listener listener;
  Connections connections(listener.port());
  const auto [peer, own] = listener.connect();
  const auto connection = connections.find(own);
  REQUIRE(connection != nullptr);
  const std::string content(10'000, 'x');
  REQUIRE(send(peer, content.data(), content.size(), 0) == 10'000);
  std::uint64_t nbytes = 1;
  REQUIRE(leash::lane::read_nbytes(*connection, nbytes));
  CHECK(nbytes == 0);
  std::string got(4'000, 0);
  REQUIRE(recv(own, got.data(), got.size(), MSG_WAITALL) == 4'000);
  REQUIRE(leash::lane::read_nbytes(*connection, nbytes));
  CHECK(nbytes == 4'000);
  close(peer);
  close(own);
}

TEST_CASE("Two threads find and remove the same connections") {
  const Listener listener;
  Connections connections(listener.port());
  std::vector<Listener::Pair> pairs;
  for (int i = 0; i < 8; ++i) pairs.push_back(listener.connect());
  std::atomic<int> found = 0;
  const auto use = [&] {
    for (int round = 0; round < 200; ++round) {
      for (const auto& pair : pairs) {
        const auto connection = connections.find(pair.own);
        if (connection == nullptr) continue;
        connection->messages.fetch_add(1);
        ++found;
        if (round % 3 == 0) connections.remove(*connection);
      }
    }
  };
  std::thread other(use);
  use();
  other.join();
  CHECK(found == 2 * 200 * 8);
  CHECK(connections.all().size() == connections.size());
  for (const auto& [peer, own] : pairs) {
    close(peer);
    close(own);
  }
}
