// The requests of a worker to one shard that have no answer yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace leash {

enum class RequestKind : std::uint8_t {
  kPush,     // answered by params, and by nothing else
  kPull,     // likewise
  kTell,     // init or publish, answered by ok
  kOptions,  // answered by options_set
};

// In whose memory a payload lies.
enum class PayloadSource : std::uint8_t { kNone, kGradients, kMemory, kValues, kOptions };

struct PayloadPlace {
  PayloadSource source = PayloadSource::kNone;
  std::size_t offset = 0;
  std::size_t nbytes = 0;
};

// A request, with all that it takes to send it again.
struct Request {
  RequestKind kind = RequestKind::kPush;
  std::uint32_t chunk = 0;       // the highest of its chunks
  std::uint32_t chunks = 0;      // how many it has
  std::uint32_t unanswered = 0;  // how many of them have no answer
  std::uint64_t step = 0;        // of a push; otherwise 0
  std::uint64_t number = 0;      // of what is published, and of options; otherwise 0
  bool is_due_again = false;     // it is to be sent again
  bool is_by_ring = false;       // it was sent by the shard's ring
  std::vector<std::byte> header = {};
  PayloadPlace payload = {};
};

// Keeps requests in the order in which they were sent first. It reuses their memory.
class Flight {
 public:
  // For the chunks of one shard, [first, end).
  Flight(std::uint32_t first, std::uint32_t end);

  // Adds a request for chunk, chunk - 1, ... (`chunks` of them); the caller sets what else it has.
  // REQUIRES: none of them is in flight; they are this shard's.
  Request& add(RequestKind kind, std::uint32_t chunk, std::uint32_t chunks);
  Request& add_options(std::uint64_t number);

  // How many requests are in flight; one may carry several chunks.
  std::size_t size() const { return order_.size(); }

  // The request that an answer for chunk, chunk - 1, ... settles, or the part of it for these
  // chunks; null if one of them is in no request in flight with this step and number. Some of them
  // may have been answered before: a request that goes again goes whole.
  Request* awaiting(std::uint32_t chunk, std::uint64_t chunks, std::uint64_t step,
                    std::uint64_t number) const;
  Request* awaiting_options(std::uint64_t number) const;
  bool has_options() const { return options_ != nullptr; }
  bool is_all_by_ring() const;
  // What was sent by the ring is to be sent again.
  void leave_ring();
  // The request for a chunk that an error is about: it names a step, and no number.
  Request* awaiting_at(std::uint32_t chunk, std::uint64_t step) const;

  // Removes those of these chunks that are there, and a request with its last chunk. REQUIRES:
  // awaiting() gave something.
  void settle(std::uint32_t chunk, std::uint64_t chunks);
  void settle_options();

  // All are to be sent again; or one. next_again() gives them in order, each once.
  void send_all_again();
  void send_again(Request& request);
  Request* next_again();

  void clear();

 private:
  Request& added(RequestKind kind);
  bool was_answered(std::uint32_t chunk, std::uint64_t step, std::uint64_t number) const;
  Request*& at(std::uint32_t chunk) { return by_chunk_[chunk - first_]; }
  Request* at(std::uint32_t chunk) const;  // null also for another shard's
  void remove(Request& request);

  std::uint32_t first_;
  std::vector<Request*> by_chunk_;
  Request* options_ = nullptr;
  std::vector<Request*> order_;
  std::size_t due_again_ = 0;  // how many are to be sent again
  std::vector<std::unique_ptr<Request>> all_;
  std::vector<Request*> unused_;
};

}  // namespace leash
