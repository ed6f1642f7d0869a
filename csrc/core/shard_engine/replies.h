// Requests whose answers wait, answers of neighbours that are joined, and what is to be sent.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/shard/push.h"
#include "core/shard_engine/buffer.h"
#include "core/shard_engine/records.h"
#include "core/shard_engine/refused.h"
#include "core/wire/headers.h"

namespace leash {

// A message that is to be sent. It has a reference to its payload, which goes to whoever takes it.
struct OutgoingAnswer {
  std::string route;
  std::variant<ParamsHeader, OkHeader, ErrorHeader> header;
  std::string text = {};  // of an error, whose header is given it when it is written
  Buffer* payload = nullptr;

  // The worker that a reply is for; 0 for an error, which any peer gets.
  std::uint32_t worker() const;
  HeaderBytes written() const;
};

// A push of one chunk whose answer waits.
struct Asked {
  std::string route = {};
  std::uint32_t worker = 0;
  std::uint32_t chunk = 0;
  std::uint64_t step = 0;
  bool wants_parameters = false;
  std::uint64_t has = 0;              // as the header has it
  WireCodec codec = WireCodec::kF32;  // of the parameters
  Buffer* payload = nullptr;          // the answer's; null: the parameters lie in a segment
  std::size_t nbytes = 0;             // of the parameters, in that payload or in the segment
  bool again = false;  // the request is a duplicate, whose step was answered and counted before
  std::uint64_t place = 0;  // in the order in which requests began to wait
};

// Counts what it sends, and notes the answers about chunk 0.
class Replies {
 public:
  Replies(EngineCounts& counts, std::vector<Record>& records, BufferBin& bin)
      : counts_(counts), records_(records), bin_(bin) {}
  ~Replies();
  Replies(const Replies&) = delete;
  Replies& operator=(const Replies&) = delete;

  std::size_t parked() const { return parked_.size(); }
  // The workers whose pushes wait, in ascending order.
  std::vector<std::uint32_t> waiting() const;
  // The push that waits for this chunk and worker; null if there is none.
  const Asked* waiting(std::uint32_t chunk, std::uint32_t worker) const;

  // Sends the replies that the shard has released. `asked` is parked if its reply is not among
  // them; its reference to the payload is taken over. Answers about segments go out with flush().
  void answer(const std::vector<Reply>& replies, Asked asked, double now_s);
  void answer(const std::vector<Reply>& replies, double now_s);
  void flush();

  void refuse(std::string_view route, const Refused& refusal, std::uint32_t worker,
              std::uint64_t step, std::uint32_t chunk);
  void send(OutgoingAnswer message) { outgoing_.push_back(std::move(message)); }

  void forget(std::uint32_t worker);
  // Takes out all that wait, in the order in which they came. The caller drops their payloads.
  std::vector<Asked> take_parked();
  // Puts the messages that are to be sent in place of what `outgoing` held.
  void take(std::vector<OutgoingAnswer>& outgoing) {
    outgoing.clear();
    outgoing.swap(outgoing_);
  }

 private:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // worker and chunk

  void park(Asked asked);
  void keep(const Key& key, Asked asked);
  void send_parked(const Reply& reply, double now_s);
  void send_reply(const Reply& reply, Asked asked, double now_s);
  void count(const Reply& reply, double now_s);
  void join(std::string route, const ParamsHeader& params);

  EngineCounts& counts_;
  std::vector<Record>& records_;
  BufferBin& bin_;
  std::map<Key, Asked> parked_;
  std::uint64_t places_ = 0;
  std::vector<std::map<Key, Asked>::node_type> spare_;  // of requests that were answered
  std::vector<OutgoingAnswer> outgoing_;
  std::vector<OutgoingAnswer> unsent_;  // answers about segments, which may still be joined
};

}  // namespace leash
