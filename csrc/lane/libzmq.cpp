#include "lane/libzmq.h"

#include <dlfcn.h>

#include <cerrno>
#include <map>
#include <mutex>
#include <stdexcept>

namespace leash::lane {
namespace {

template <typename Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) throw std::runtime_error(std::string(name) + ": not found");
}

}  // namespace

const LibZmq& find_libzmq(const std::string& path) {
  // Never destroyed: messages may be closed at the very end.
  static std::mutex mutex;
  static auto& known = *new std::map<std::string, LibZmq>();
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(path); found != known.end()) return found->second;
  // It is not loaded here, and stays loaded: pyzmq needs it as long as the process lives.
  void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) throw std::runtime_error(path + ": not loaded");
  LibZmq zmq{};
  find(library, "zmq_errno", zmq.error);
  find(library, "zmq_msg_init", zmq.msg_init);
  find(library, "zmq_msg_init_size", zmq.msg_init_size);
  find(library, "zmq_msg_init_data", zmq.msg_init_data);
  find(library, "zmq_msg_close", zmq.msg_close);
  find(library, "zmq_msg_send", zmq.msg_send);
  find(library, "zmq_msg_recv", zmq.msg_recv);
  find(library, "zmq_msg_data", zmq.msg_data);
  find(library, "zmq_msg_size", zmq.msg_size);
  find(library, "zmq_msg_more", zmq.msg_more);
  find(library, "zmq_msg_get", zmq.msg_get);
  find(library, "zmq_msg_gets", zmq.msg_gets);
  find(library, "zmq_socket", zmq.socket);
  find(library, "zmq_close", zmq.close);
  find(library, "zmq_connect", zmq.connect);
  find(library, "zmq_setsockopt", zmq.setsockopt);
  find(library, "zmq_getsockopt", zmq.getsockopt);
  find(library, "zmq_poll", zmq.poll);
  void (*version)(int*, int*, int*) = nullptr;
  find(library, "zmq_version", version);
  int major = 0, minor = 0, patch = 0;
  version(&major, &minor, &patch);
  if (major != 4) {
    throw std::runtime_error("libzmq: expected version 4, got " + std::to_string(major));
  }
  return known.emplace(path, zmq).first->second;
}

// A socket hears of what its peer has taken only when it looks for news. Its calls leave that out
// where another one was made less than a millisecond ago, so a queue that counts as full has room
// more often than not.
int put(const LibZmq& zmq, ZmqMessage& frame, void* socket, int flags) {
  bool has_looked = false;
  while (zmq.msg_send(&frame, socket, kZmqDontWait | flags) < 0) {
    const int error = zmq.error();
    if (error == EINTR) continue;
    if (error != EAGAIN || has_looked) return error;
    int events = 0;
    std::size_t size = sizeof(events);
    zmq.getsockopt(socket, kZmqEvents, &events, &size);  // to ask for them is to look for news
    has_looked = true;
  }
  return 0;
}

bool Frame::receive(void* socket) {
  if (zmq_.msg_recv(&message_, socket, kZmqDontWait) >= 0) return true;
  const int error = zmq_.error();
  if (error == EAGAIN || error == EINTR) return false;
  throw std::runtime_error("zmq_msg_recv: error " + std::to_string(error));
}

void Frame::receive_rest(void* socket) {
  while (!receive(socket)) {
  }
}

int Frame::send(void* socket, int flags) {
  const int error = put(zmq_, message_, socket, flags);
  if (error == 0) zmq_.msg_init(&message_);
  return error;
}

std::string Frame::peer() const {
  const char* const address = zmq_.msg_gets(&message_, "Peer-Address");
  return address == nullptr ? "" : address;
}

std::string Frame::user() const {
  const char* const name = zmq_.msg_gets(&message_, "User-Id");
  return name == nullptr ? "" : name;
}

}  // namespace leash::lane
