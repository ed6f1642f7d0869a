// A shard's part in the protocol: pushes come in as bytes, and answers go out as bytes. It knows no
// socket and no clock.
//
//   receive(route, header, payload, time)  ─▸  check ▸ clock ▸ update  ─▸  take_outgoing()
//                                                                          take_records(), counts
//
// It takes the pushes of those who take part. Whatever is rare (first values, pulls, segments,
// tables of options) and whatever comes from a stranger it leaves to its caller, who decides, and
// then calls it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/shard/shard.h"
#include "core/shard_engine/attachment.h"
#include "core/shard_engine/buffer.h"
#include "core/shard_engine/records.h"
#include "core/shard_engine/refused.h"
#include "core/shard_engine/replies.h"
#include "core/shard_engine/served_chunks.h"

namespace leash {

// One message of a data socket.
struct Incoming {
  std::string_view route;
  std::span<const std::byte> header;
  Buffer* payload;            // null if it has none; the engine adds references of its own
  double now_s;               // when it came, on a clock that does not go back
  std::string_view key = {};  // of its sender, as the socket knows it; empty without keys
};

// For one thread at a time. Every call that takes a time gets one that is not before the last.
class ShardEngine {
 public:
  // shard: outlives the engine; while the engine is used nobody else pushes, pulls for a worker or
  // has anybody leave. nonfinite: what the shard was made with.
  ShardEngine(Shard& shard, ModelMap map, Nonfinite nonfinite);
  ~ShardEngine();
  ShardEngine(const ShardEngine&) = delete;
  ShardEngine& operator=(const ShardEngine&) = delete;

  // Who takes part.

  // Takes this worker's pushes from now on, if they are of this incarnation and come by this key.
  void admit(std::uint32_t worker, std::uint64_t incarnation, std::string_view key = {});
  // Forgets a worker: its incarnation, segment, options and requests. Others still wait for it.
  void expel(std::uint32_t worker);
  // Has nobody wait for a worker, and sends the answers that waited only for it. It may be one that
  // was never admitted. Throws NotLive.
  void leave(std::uint32_t worker, double now_s);
  void set_rule(const Rule& rule, double now_s);
  // Gives up all rounds, as Shard::give_up_rounds() says, and sends the answers that waited.
  void give_up_rounds(double now_s);

  // Refuses pushes from now on, with this code and text; a code that is empty lets them come.
  // REQUIRES: a code that is not empty is one of `codes`.
  void refuse_pushes(std::string_view code, std::string text);
  // Answers all requests that wait with `stopping`, and refuses pushes from now on.
  void stop(const std::string& reason);

  // Messages.

  // Handles a push. Returns false, and has changed nothing, if it is not one that it takes: another
  // verb, a header that is not well-formed, a sender that does not take part or has another key.
  bool receive(const Incoming& message);

  // Takes this worker's pushes without a payload from `memory`, which was mapped for `route`, and
  // for that of its ring, if it has one. Throws std::invalid_argument unless the memory has the
  // size of a segment of this model.
  void attach(std::uint32_t worker, std::string_view route, Buffer* memory,
              std::string_view ring_route = {});
  bool is_attached(std::uint32_t worker) const { return attachments_.contains(worker); }

  // Notes which table of options the shard applies for this worker: its number, and a number that
  // equal tables of several workers share, from 1.
  void note_options(std::uint32_t worker, std::uint64_t number, std::uint64_t table);

  // Answers a pull of a chunk that has values, in a codec that parameters have. worker: none for an
  // observer. Throws Refused if the shard has no such chunk.
  void pull(std::string_view route, std::uint32_t chunk, std::optional<std::uint32_t> worker,
            WireCodec codec, double now_s);

  // What comes of it.

  // These put what has come up since the last call in place of what the argument held.
  void take_outgoing(std::vector<OutgoingAnswer>& outgoing) { replies_.take(outgoing); }
  void take_records(std::vector<Record>& records) {
    records.clear();
    records.swap(records_);
  }
  std::size_t records() const { return records_.size(); }  // that wait to be taken
  void take_idle(std::vector<Buffer*>& idle) { bin_.take(idle); }
  // Whether take_records(), take_counts() or take_heard() has anything to tell.
  bool has_news() const;
  // What was counted since the last call.
  EngineCounts take_counts() { return std::exchange(counts_, {}); }
  // The workers that were heard since the last call, and when.
  std::vector<std::pair<std::uint32_t, double>> take_heard();

  std::size_t parked() const { return replies_.parked(); }
  // The workers that wait for an answer, in ascending order.
  std::vector<std::uint32_t> waiting() const { return replies_.waiting(); }
  void drop(Buffer* buffer) { bin_.drop(buffer); }

 private:
  struct Member {
    std::uint64_t incarnation = 0;
    std::string key = {};
    double heard_s = 0.0;
    bool is_news = false;  // it was heard since take_heard()
  };
  struct Options {
    std::uint64_t number = 0;
    std::uint64_t table = 0;
    bool operator==(const Options&) const = default;
  };
  // Where a chunk's gradient lies, and where its parameters go.
  struct Source {
    Buffer* memory = nullptr;  // the gradient's; null if all slots are absent
    std::byte* data = nullptr;
    std::size_t nbytes = 0;
    WireCodec codec = WireCodec::kF32;
    bool is_shared = false;           // whether the gradient's worker may change it at any time
    Buffer* answer_memory = nullptr;  // null: no answer carries parameters
    std::byte* answer = nullptr;
    std::uint64_t* answer_state = nullptr;  // of its place in a segment
    WireCodec answer_codec = WireCodec::kF32;
    Buffer* payload = nullptr;  // of the answer; null: in a segment
  };

  // The parts of receive(). They throw Refused.
  void push(const Incoming& message, const PushHeader& header);
  void push_payload(const Incoming& message, const PushHeader& header);
  void push_nothing(const Incoming& message, const PushHeader& header);
  void push_segment(const Incoming& message, const PushHeader& header);
  void push_for_own_answer(const Incoming& message, const PushHeader& header, Source source);
  void push_chunk(const Incoming& message, const PushHeader& header, std::uint32_t chunk,
                  const Source& source);
  void settle(const Incoming& message, const PushHeader& header, Asked asked);
  void require_open() const;
  void require_options(const PushHeader& header, double now_s);
  void compare_options(const PushHeader& header, const Options& options, double now_s);
  bool is_repeated(const PushHeader& header) const;
  void require_answered(const PushHeader& header, std::uint32_t chunk) const;
  void require_not_refused(const PushHeader& header, std::uint32_t chunk) const;
  static void require_taken(const PushResult& result, const PushHeader& header,
                            std::uint32_t chunk);
  // Of the parameters that answer a push in this codec: the one that was asked for, if any.
  WireCodec answer_codec(const PushHeader& header, WireCodec codec) const;
  const Attachment& require_attachment(const Incoming& message, const PushHeader& header) const;

  Source source_in_segment(const Attachment& attachment, const PushHeader& header,
                           std::uint32_t chunk) const;
  Push core_push(const PushHeader& header, std::uint32_t chunk, const Source& source, double now_s);
  void on_nonfinite(const PushHeader& header, std::uint32_t chunk, std::size_t index, double now_s);
  void note_overflows(double now_s);
  void collect();  // what the shard needs no longer

  Shard& shard_;
  ServedChunks chunks_;
  Nonfinite nonfinite_;
  std::string_view closed_code_ = {};  // of the refusal that every push gets now; empty: none
  std::string closed_text_ = {};

  EngineCounts counts_;
  std::vector<Record> records_;
  BufferBin bin_;
  Replies replies_{counts_, records_, bin_};
  std::map<std::uint32_t, Member> members_;
  std::map<std::uint32_t, Attachment> attachments_;
  std::map<std::uint32_t, Options> options_;
  // The newest step of chunk 0 that anybody pushed under a policy of means, by whom, and the table.
  struct {
    std::uint64_t step = 0;
    std::uint32_t worker = 0;
    std::uint64_t table = 0;
    bool has_told = false;
  } newest_;
  // Worker and chunk ▸ the step that was refused last as non-finite, and why: the worker may ask
  // again because it has lost the answer.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::pair<std::uint64_t, std::string>> bad_;

  // Used within one call, and kept for the next.
  PushResult result_;
  std::vector<void*> freed_;
  std::vector<std::uint8_t> absent_;
};

}  // namespace leash
