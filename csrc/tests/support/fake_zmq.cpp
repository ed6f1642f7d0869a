#include "tests/support/fake_zmq.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace leash::tests {
namespace {

using lane::LibZmq;
using lane::ZmqMessage;
using lane::ZmqPollItem;

// A frame: bytes of its own, or of others, who hear when they are needed no more.
struct Content {
  std::string own = {};
  void* lent = nullptr;
  std::size_t nbytes = 0;
  void (*give_back)(void*, void*) = nullptr;
  void* hint = nullptr;
  bool more = false;

  void* data() { return lent != nullptr ? lent : own.data(); }
  std::size_t size() const { return lent != nullptr ? nbytes : own.size(); }
  ~Content() {
    if (give_back != nullptr) give_back(lent, hint);
  }
};

int last_error = 0;
std::vector<std::unique_ptr<Content>> leaving;

Content*& content(const ZmqMessage* message) {
  return *reinterpret_cast<Content**>(const_cast<ZmqMessage*>(message)->bytes);
}

int fail(int error) {
  last_error = error;
  return -1;
}

int init(ZmqMessage* message) {
  content(message) = new Content();
  return 0;
}

int init_size(ZmqMessage* message, std::size_t nbytes) {
  content(message) = new Content{.own = std::string(nbytes, '\0')};
  return 0;
}

int init_data(ZmqMessage* message, void* data, std::size_t nbytes, void (*give_back)(void*, void*),
              void* hint) {
  content(message) =
      new Content{.lent = data, .nbytes = nbytes, .give_back = give_back, .hint = hint};
  return 0;
}

int close(ZmqMessage* message) {
  delete std::exchange(content(message), nullptr);
  return 0;
}

int send(ZmqMessage* message, void* handle, int flags) {
  auto& socket = *static_cast<FakeSocket*>(handle);
  if (socket.frames_taken.empty() && socket.fails != 0) return fail(socket.fails);
  if (socket.frames_taken.empty() && socket.seems_full) return fail(EAGAIN);
  // What is left is an empty frame, which need not be closed.
  std::unique_ptr<Content> frame(std::exchange(content(message), nullptr));
  socket.frames_taken.emplace_back(static_cast<const char*>(frame->data()), frame->size());
  leaving.push_back(std::move(frame));
  if ((flags & lane::kZmqSendMore) == 0) {
    socket.sent.push_back(std::exchange(socket.frames_taken, {}));
  }
  return 0;
}

int receive(ZmqMessage* message, void* handle, int) {
  auto& socket = *static_cast<FakeSocket*>(handle);
  if (socket.incoming.empty()) return fail(EAGAIN);
  FakeSocket::Frames& frames = socket.incoming.front();
  Content& frame = *content(message);
  frame.own = frames[socket.frames_given++];
  frame.more = socket.frames_given < frames.size();
  if (!frame.more) {
    socket.incoming.pop_front();
    socket.frames_given = 0;
  }
  return 0;
}

int getsockopt(void* handle, int, void* value, std::size_t*) {
  static_cast<FakeSocket*>(handle)->seems_full = false;
  *static_cast<int*>(value) = 0;
  return 0;
}

int poll(ZmqPollItem* items, int count, long) {
  int ready = 0;
  for (int i = 0; i < count; ++i) {
    const bool has_come = !static_cast<FakeSocket*>(items[i].socket)->incoming.empty();
    items[i].revents = has_come ? lane::kZmqPollIn : short{0};
    ready += has_come ? 1 : 0;
  }
  if (ready == 0 && fake_poll_error != 0) return fail(std::exchange(fake_poll_error, 0));
  return ready;
}

}  // namespace

int fake_poll_error = 0;

void let_messages_leave() { leaving.clear(); }

const LibZmq& fake_libzmq() {
  static const LibZmq zmq = [] {
    LibZmq made{};
    made.error = [] { return last_error; };
    made.msg_init = init;
    made.msg_init_size = init_size;
    made.msg_init_data = init_data;
    made.msg_close = close;
    made.msg_send = send;
    made.msg_recv = receive;
    made.msg_data = [](ZmqMessage* message) { return content(message)->data(); };
    made.msg_size = [](const ZmqMessage* message) { return content(message)->size(); };
    made.msg_more = [](const ZmqMessage* message) { return content(message)->more ? 1 : 0; };
    made.getsockopt = getsockopt;
    made.poll = poll;
    return made;
  }();
  return zmq;
}

}  // namespace leash::tests
