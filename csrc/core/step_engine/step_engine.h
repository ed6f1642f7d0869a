// A worker's side of the data connections to all shards: which request goes next over each, what an
// answer means, and what is sent again over a new connection. docs/wire-format.md is the contract.
//
// An engine never waits and knows no sockets: a driver carries what next() gives, hands what comes
// to receive(), and tells of connections.
//
//   tcp   header + payload   ▸   header + payload, which receive() brings to its place
//   shm   header             ▸   header; the server has put the parameters where the gradient was
//
// A chunk's answer proves that the server has read its request to the end. So a gradient is sent
// from where it lies, and may be overwritten once its answer is here. Over a new connection,
// everything that has no answer goes again; the server knows what it has applied.
//
// In a segment that is not enough. A worker that hears late of two reconnections sends its requests
// twice over the second of them. The server may then handle the second copy after the worker has
// taken the answer to the first, and would write old parameters over the next gradient. So each
// connection begins with an `attach` of a new number, all requests follow it, and the engine
// ignores every other answer until that one is answered. A request whose answer it takes then has
// no copy left on its way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/step_engine/flight.h"
#include "core/step_engine/gradient_encoder.h"
#include "core/step_engine/step_chunk.h"
#include "core/wire/headers.h"
#include "core/wire/segment.h"

namespace leash {

// One message names no more chunks of a segment, so that the server soon gets to other workers.
inline constexpr std::uint32_t kRunChunks = 16;
// Memory outside the slabs is copied to and from the slab of this index.
inline constexpr std::uint32_t kStandIn = 0;

// What a server said to a worker's hello, and what the worker is.
struct StepMember {
  std::uint32_t worker = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t window = 1;                       // how many requests may be in flight to a shard
  std::vector<std::uint32_t> first_chunks = {0};  // the first chunk of each shard
};

// A worker's two slabs, and its outbox, in one memory.
struct StepMemory {
  std::byte* data = nullptr;
  std::size_t nbytes = 0;
  std::size_t slabs[kSlabs] = {};          // where they begin
  std::optional<std::size_t> outbox = {};  // where it begins; a codec other than raw needs it
  std::optional<std::size_t> states = {};  // where they begin; without them nothing goes again
};

// What the newest answer with a chunk's parameters said.
struct Newest {
  std::uint64_t version = 0;
  std::uint64_t step = 0;  // of the push that it answered; 0 for a pull
};

// What a step pushes, and where its answers go.
struct StepSlabs {
  const std::byte* gradients = nullptr;
  std::byte* parameters = nullptr;  // may be the same memory: parameters then replace gradients
  const std::byte* held = nullptr;  // what the worker has; null if all is to be sent again
};

// What is to be sent next. The header is valid until the next call, except for an `attach`: the
// driver writes its header, with this number.
struct Outgoing {
  std::span<const std::byte> header = {};
  PayloadPlace payload = {};
  std::uint64_t attach_number = 0;  // 0 for all other requests
  bool is_by_ring = false;          // it goes by the shard's ring, and not by its socket
};

enum class Received : std::uint8_t {
  kTaken,    // dealt with, or rightly ignored
  kLook,     // the driver is to look whether the connection is new
  kRefused,  // refusal() says by whom, and why
  kOther,    // not a header that the engine reads, or one that does not fit: see leash.ps.wire
};

// What ends a step: an error of the server, or an answer that is none to what was asked.
struct Refusal {
  std::string code = {};
  std::string text = {};
  std::uint64_t clock = 0;
};

// What the answers to a step said, the largest over all of them.
struct StepEnd {
  std::uint64_t version = 0;
  std::uint64_t lag = 0;
  std::uint64_t staleness = 0;
};

class StepEngine {
 public:
  // Whether a slot has no gradient in this step.
  using IsAbsent = std::function<bool(std::uint32_t slot)>;

  // residual: of the codec, as GradientEncoder takes it. Throws std::invalid_argument if the parts
  // do not fit together.
  StepEngine(std::vector<StepChunk> chunks, const StepMember& member,
             const EncodingSettings& encoding, const StepMemory& memory, std::byte* residual);

  // --- What goes out. Each of the first three forgets what was open before. ---

  // Opens a step, of which ready() says what may go. Throws std::invalid_argument for slabs whose
  // numbers are not aligned.
  void begin(std::uint64_t step, std::uint32_t samples, const StepSlabs& slabs,
             std::uint64_t table);
  // Pulls every chunk to its place in `parameters`, a slab. headers: one for each chunk.
  void pull(std::vector<std::string> headers, std::byte* parameters);
  // Sends every chunk of the driver's values, as init and publish do, to be answered by `ok`.
  void tell(std::vector<std::string> headers, std::uint64_t number);

  // Sends options to every shard before the pushes of the open step.
  void set_options(std::uint64_t number, std::string header, std::size_t payload_nbytes);
  // The gradients from this chunk to the last are complete. is_absent (empty: none is) is asked of
  // the slots of those that were not ready before. Throws std::invalid_argument if a push cannot
  // name the slots of a chunk that have no gradient.
  void ready(std::uint32_t first_ready, const IsAbsent& is_absent);
  // Asks every shard to map this worker's memory.
  void attach();
  // They have, and have proved it: from now on pushes carry no payloads, and every new connection
  // attaches again.
  void keep_attached() { is_kept_ = true; }

  // The server has died, and another one takes its place. Takes for answered what lies written in
  // the segment, and returns how many chunks of the open step are lost: they were being written.
  // From then on the engine waits for rejoin(), or is given up.
  std::uint32_t settle_written();
  // This worker has said hello to the server, which has not taken the open step: what has no answer
  // goes again over the next connections, under the new incarnation, and by options of this number.
  // A lost chunk goes without a gradient. No step need be open.
  // REQUIRES: settle_written() was called.
  void rejoin(std::uint64_t incarnation, std::uint64_t table);

  // The message that goes next to a shard, of which it counts as sent; nothing if none may go. A
  // new request goes while fewer than `most` and the window are in flight.
  std::optional<Outgoing> next(std::size_t shard, std::size_t most);
  // The socket has not taken what next() gave for this shard: it goes again.
  // REQUIRES: next() gave one, and nothing was called since.
  void not_sent(std::size_t shard);
  // Whether next() may have to encode or copy a chunk.
  bool rewrites() const { return encodes_ || uses_stand_in(); }

  // --- What comes in. ---

  // payloads: how many frames came behind the header; payload: the first of them.
  Received receive(std::size_t shard, std::span<const std::byte> header, std::size_t payloads,
                   std::span<const std::byte> payload);
  const Refusal& refusal() const { return refusal_; }  // by the newest receive() that gave one
  // Whether receive() may have to copy without a payload.
  bool copies_answers() const;

  // The answers that Python reads. attached() says whether this one answers attach().
  bool attached(std::size_t shard, std::uint64_t number);
  void options_set(std::size_t shard, std::uint64_t number);

  // The shard takes headers by its ring too, until the connection is lost over which it said so, or
  // it has closed the ring: what has no answer then goes again over the connection.
  void use_ring(std::size_t shard);
  void leave_ring(std::size_t shard);

  void connected(std::size_t shard);  // a new connection stands
  void lost(std::size_t shard);

  // --- How things stand. ---

  bool is_connected(std::size_t shard) const { return lanes_.at(shard).is_connected; }
  bool is_attaching(std::size_t shard) const { return lanes_.at(shard).is_attaching; }
  bool has_ring(std::size_t shard) const { return lanes_[shard].has_ring; }
  // Whether all that is in flight was sent by the shard's ring, by which its answers come.
  bool awaits_ring_alone(std::size_t shard) const;
  bool is_idle(std::size_t shard) const;      // nothing waits to be sent or answered
  bool awaits_last(std::size_t shard) const;  // one more answer leaves nothing to do
  bool is_done() const;                       // all shards are idle
  bool is_attached() const { return is_kept_; }
  std::size_t shards() const { return lanes_.size(); }
  std::size_t slab_nbytes() const { return chunks_.back().stop(); }
  std::size_t chunk_count() const { return chunks_.size(); }
  std::uint64_t version() const;  // the largest of a chunk, of the parameters that came last
  std::span<const Newest> newest() const { return newest_; }  // by chunk

  // Closes the step. REQUIRES: is_done().
  StepEnd finish();
  // Drops what is queued and in flight; the answers that still come are ignored.
  void forget();

 private:
  // Chunks that became ready together, from `next` down to `last`.
  struct Ready {
    std::uint32_t next;
    std::uint32_t last;
  };

  // The connection to one shard.
  struct Lane {
    Lane(std::uint32_t first_chunk, std::uint32_t end_chunk)
        : first(first_chunk), end(end_chunk), flight(first_chunk, end_chunk) {}

    std::uint32_t first;
    std::uint32_t end;
    Flight flight;
    bool is_connected = false;
    bool has_ring = false;
    // The newest `attach`: whether it is to be sent, has no answer, and was asked for by attach().
    std::uint64_t attaches = 0;
    bool attach_is_due = false;
    bool is_attaching = false;
    bool asks_to_attach = false;
    // What waits: options; requests for all chunks from `ask` on; pushes.
    bool options_are_due = false;
    std::uint32_t ask = 0;  // `end` if there is none
    std::uint32_t unready = 0;
    std::vector<Ready> ready = {};
    std::size_t ready_at = 0;
    Request* newest = nullptr;  // that next() has given; null if that was an `attach`
  };

  // Which pieces of a chunk have no gradient.
  struct Absence {
    std::string bits = {};
    bool is_all = false;
  };

  // What was written of a chunk in the codec.
  struct Written {
    std::uint64_t step = 0;
    PayloadPlace payload = {};
  };

  enum class Open : std::uint8_t { kNothing, kStep, kPull, kTell };

  void open(Open what);
  bool has_waiting(const Lane& lane) const;
  std::size_t in_flight(const Lane& lane) const;
  Request* take_waiting(Lane& lane);
  Request* ask_next(Lane& lane);
  Request* push_next(Lane& lane);
  bool fits_ring(const Lane& lane, const Request& request) const;
  std::uint32_t run_length(const Ready& ready) const;
  void write_push(Request& request, std::uint32_t chunks);
  PayloadPlace encode(std::uint32_t chunk, std::string_view absent);
  void leave_out(std::uint32_t chunk);
  bool is_lost(std::uint32_t chunk) const;
  std::uint64_t* state(std::uint32_t chunk) const;
  void note_newest(const ParamsHeader& params, bool is_in_segment);
  void note_untouched(std::uint32_t chunk, std::uint32_t chunks);
  void copy_to_stand_in(std::uint32_t chunk, std::uint32_t chunks);
  void note_absence(std::uint32_t chunk, const IsAbsent& is_absent);
  std::string_view absent(std::uint32_t chunk) const;
  bool all_absent(std::uint32_t chunk) const;

  Received on_params(Lane& lane, const ParamsHeader& params, std::size_t payloads,
                     std::span<const std::byte> payload);
  Received on_ok(Lane& lane, const OkHeader& ok);
  Received on_error(Lane& lane, const ErrorHeader& error);
  Received store_from_message(const ParamsHeader& params, std::size_t payloads,
                              std::span<const std::byte> payload);
  Received store_from_segment(const ParamsHeader& params, std::size_t payloads);
  Received refuse(std::string_view code, std::string text, std::uint64_t clock = 0);

  bool uses_stand_in() const { return is_kept_ && open_ == Open::kStep && !slab_; }
  std::byte* pushed_slab() const { return memory_.data + memory_.slabs[slab_.value_or(kStandIn)]; }

  const std::vector<StepChunk> chunks_;
  const std::uint32_t worker_;
  std::uint64_t incarnation_;
  const std::size_t window_;
  const StepMemory memory_;
  GradientEncoder encoder_;
  const bool encodes_;  // some chunk travels in another form than raw
  const Kernels& kernels_;
  std::vector<Lane> lanes_;
  bool is_kept_ = false;
  // attach() was called, and not given up since. A shard that has answered it already knows only
  // the connection over which it was asked.
  bool is_offered_ = false;
  std::vector<Newest> newest_;    // by chunk
  std::vector<Written> written_;  // by chunk

  Open open_ = Open::kNothing;
  // Of a step.
  std::uint64_t step_ = 0;
  std::uint32_t samples_ = 0;
  std::uint64_t table_ = 0;
  StepSlabs slabs_ = {};
  std::optional<std::uint32_t> slab_ = {};  // which of the memory's the gradients are, if any
  StepEnd end_ = {};
  std::vector<Absence> absences_;  // by chunk
  bool has_absences_ = false;
  std::vector<std::uint32_t> lost_ = {};  // chunks whose gradient is gone
  // Of a pull, or of values that are told.
  std::vector<std::string> headers_ = {};
  std::uint64_t number_ = 0;
  std::byte* pulled_ = nullptr;
  // The options that go before the step.
  std::uint64_t options_number_ = 0;
  std::string options_header_ = {};
  std::size_t options_nbytes_ = 0;

  Refusal refusal_ = {};
};

}  // namespace leash
