#include "lane/engines/served_rings.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace leash::lane {
namespace {

// A zero, and a number. The routes that ROUTER gives are shorter, and no peer may choose one that
// begins with a zero.
constexpr std::size_t kRouteNbytes = 1 + sizeof(std::uint64_t);
constexpr int kMostWoken = 64;  // pipes that are emptied in one call

}  // namespace

ServedRings::~ServedRings() {
  for (const auto& ring : rings_) ::close(ring->pipe);
  if (poll_ >= 0) ::close(poll_);
}

std::string ServedRings::open(std::uint32_t worker, std::byte* rings, std::size_t shard, int pipe,
                              std::string_view socket_route, std::string_view key) {
  close(worker);
  if (poll_ < 0) poll_ = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = pipe;
  if (::epoll_ctl(poll_, EPOLL_CTL_ADD, pipe, &event) != 0) {
    const int error = errno;
    ::close(pipe);
    throw std::system_error(error, std::generic_category(), "epoll_ctl");
  }
  std::string route(kRouteNbytes, '\0');
  ++opened_;
  std::memcpy(route.data() + 1, &opened_, sizeof(opened_));
  std::byte* const pair = rings + place_of_ring(shard);
  rings_.push_back(std::make_unique<ServedRing>(
      ServedRing{worker, opened_, route, std::string(socket_route), std::string(key),
                 RingReader(pair), RingWriter(pair + kRingNbytes), Bell(rings), pipe}));
  return route;
}

void ServedRings::close(std::uint32_t worker) {
  std::erase_if(rings_, [&](const auto& ring) {
    if (ring->worker != worker) return false;
    ring->requests.close();
    ring->bell.ring();
    ::epoll_ctl(poll_, EPOLL_CTL_DEL, ring->pipe, nullptr);
    ::close(ring->pipe);
    return true;
  });
}

ServedRing* ServedRings::find(std::string_view route) {
  std::uint64_t number = 0;
  std::memcpy(&number, route.data() + 1, sizeof(number));
  const auto found =
      std::ranges::lower_bound(rings_, number, {}, [](const auto& ring) { return ring->number; });
  return found == rings_.end() || (*found)->number != number ? nullptr : found->get();
}

bool ServedRings::is_route(std::string_view route) {
  return route.size() == kRouteNbytes && route.front() == '\0';
}

bool ServedRings::has_come() const {
  return std::ranges::any_of(
      rings_, [](const auto& ring) { return !ring->is_broken && ring->requests.has_come(); });
}

void ServedRings::fall_asleep() {
  for (const auto& ring : rings_) ring->requests.fall_asleep();
}

void ServedRings::wake_up() {
  for (const auto& ring : rings_) ring->requests.wake_up();
  epoll_event woken[kMostWoken];
  const int count = poll_ < 0 ? 0 : ::epoll_wait(poll_, woken, kMostWoken, 0);
  for (int i = 0; i < count; ++i) empty(woken[i].data.fd);
}

}  // namespace leash::lane
