// The functions of the libzmq that pyzmq has loaded, found by their names. So Leash is built
// without libzmq, and its sockets are those that pyzmq has made. Their interface is that of
// libzmq 4.
#pragma once

#include <string>

namespace leash::lane {

// zmq_msg_t of libzmq 4.
struct alignas(void*) ZmqMessage {
  unsigned char bytes[64];
};

// zmq_pollitem_t.
struct ZmqPollItem {
  void* socket;
  int fd;
  short events;
  short revents;
};

// Constants of zmq.h, by their names there.
inline constexpr int kZmqPair = 0;
inline constexpr int kZmqDontWait = 1;
inline constexpr int kZmqSendMore = 2;
inline constexpr int kZmqEvents = 15;
inline constexpr int kZmqLinger = 17;
inline constexpr int kZmqSourceFd = 2;
inline constexpr short kZmqPollIn = 1;
inline constexpr unsigned kZmqEventAccepted = 0x0020;
inline constexpr unsigned kZmqEventDisconnected = 0x0200;
inline constexpr unsigned kZmqHandshakeFailures = 0x2000 | 0x4000;  // protocol, keys

struct LibZmq {
  int (*error)();
  int (*msg_init)(ZmqMessage*);
  int (*msg_init_size)(ZmqMessage*, std::size_t nbytes);
  int (*msg_init_data)(ZmqMessage*, void* data, std::size_t nbytes,
                       void (*free)(void* data, void* hint), void* hint);
  int (*msg_close)(ZmqMessage*);
  int (*msg_send)(ZmqMessage*, void* socket, int flags);
  int (*msg_recv)(ZmqMessage*, void* socket, int flags);
  void* (*msg_data)(ZmqMessage*);
  std::size_t (*msg_size)(const ZmqMessage*);
  int (*msg_more)(const ZmqMessage*);
  int (*msg_get)(const ZmqMessage*, int property);
  const char* (*msg_gets)(const ZmqMessage*, const char* property);
  void* (*socket)(void* context, int type);
  int (*close)(void* socket);
  int (*connect)(void* socket, const char* address);
  int (*setsockopt)(void* socket, int option, const void* value, std::size_t nbytes);
  int (*getsockopt)(void* socket, int option, void* value, std::size_t* nbytes);
  int (*poll)(ZmqPollItem* items, int count, long timeout_ms);
};

// Finds the functions in a shared object that this process has loaded, or in those that it needs.
// What it returns lives as long as the process. Throws std::runtime_error, which says what is
// missing.
const LibZmq& find_libzmq(const std::string& path);

// Hands a frame to a socket without waiting. Returns 0, and the frame is empty then; or why the
// socket does not take it. EAGAIN means that the peer leaves no room, or that there is none.
int put(const LibZmq& zmq, ZmqMessage& frame, void* socket, int flags);

// One frame. For the thread that uses the socket.
class Frame {
 public:
  explicit Frame(const LibZmq& zmq) : zmq_(zmq) { zmq_.msg_init(&message_); }
  ~Frame() { zmq_.msg_close(&message_); }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  // Takes the next frame in place of this one. False if none has come, or a signal has. Throws
  // std::runtime_error if the socket is closed.
  bool receive(void* socket);

  // Takes a further frame of a message, all of which are here.
  void receive_rest(void* socket);

  // Hands the frame to a socket as put() does; it is empty then.
  int send(void* socket, int flags);

  const char* data() { return static_cast<const char*>(zmq_.msg_data(&message_)); }
  std::size_t nbytes() const { return zmq_.msg_size(&message_); }
  bool more() const { return zmq_.msg_more(&message_) != 0; }

  // The descriptor of the connection over which it came, which may be another's by now; -1 if it is
  // not known. The address of its peer; empty if that is not known.
  int fd() const { return zmq_.msg_get(&message_, kZmqSourceFd); }
  std::string peer() const;
  // The name under which ZAP let the peer in; empty without.
  std::string user() const;

 private:
  const LibZmq& zmq_;
  ZmqMessage message_;
};

}  // namespace leash::lane
