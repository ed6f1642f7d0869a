// A contiguous run of chunks: their slab, optimizer state and clocks, and one call per message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/slab.h"
#include "core/optimizer/optimizer.h"
#include "core/optimizer/optimizer_options.h"
#include "core/shard/chunk.h"
#include "core/shard/push.h"

namespace leash {

struct ShardOptions {
  OptimizerOptions optimizer;
  Rule rule;
  Nonfinite nonfinite;
  bool scale_lr = false;  // see Optimizer
  Schedule schedule = {};
  std::uint32_t first_chunk = 0;  // the number of this shard's first chunk in the whole model
  std::size_t threads = 1;        // that share the work on a large chunk
  StalenessRate staleness_rate = {};
  DelayCompensation compensation = {};  // one copy of the parameters for each live worker
};

// Throws std::invalid_argument for options that contradict each other.
void validate(const ShardOptions& options);

// Not synchronised: one call at a time, from any thread. chunks() and spec() never change and need
// no lock.
//
// In a steady state push() and take_freed() allocate nothing, if they are given what they filled
// before: every list has then reached its largest size.
//
// The memory of a Push must stay as it is until take_freed() has returned its owner. That happens
// once for each push and each of its owners (one, if the answer goes where the gradient is), in or
// after the call that needed the memory last.
//
// Chunks are numbered as in the whole model, from options.first_chunk. Every function that takes
// one throws std::out_of_range if it is not of this shard.
class Shard {
 public:
  // Throws std::invalid_argument for options that contradict each other, std::bad_alloc.
  Shard(const std::vector<ChunkSpec>& specs, const ShardOptions& options);

  std::size_t chunks() const { return chunks_.size(); }
  const ChunkSpec& spec(std::uint32_t chunk) const { return at(chunk).spec; }

  // First values of a chunk, taken once: false if it had values already.
  // REQUIRES: values holds the chunk's nbytes. The same for every pointer below.
  bool init(std::uint32_t chunk, const std::byte* values);
  bool initialized(std::uint32_t chunk) const { return at(chunk).initialized; }
  std::size_t initialized_chunks() const;

  // Throws std::invalid_argument, and changes nothing, if the worker is live or any chunk's
  // clock refuses it; with compensation also std::bad_alloc.
  void join(std::uint32_t worker, std::uint64_t clock);
  // Forgets the worker and all that waits for it; its part of an incomplete mean is left out.
  // Returns the answers that waited only for it. Throws NotLive.
  std::vector<Reply> leave(std::uint32_t worker);
  std::vector<std::uint32_t> workers() const { return members_.workers(); }  // ascending

  // A step that is new on every chunk: the largest of their minimums, plus one.
  std::uint64_t first_step() const;
  std::uint64_t clock(std::uint32_t chunk, std::uint32_t worker) const;  // throws NotLive
  std::uint64_t minimum(std::uint32_t chunk) const { return at(chunk).clock().minimum(); }
  std::uint64_t version(std::uint32_t chunk) const { return at(chunk).version; }

  // Applies a push exactly once, ticks, and releases every answer that the rule lets go.
  // Contributions to a mean are combined, in the order of worker ids, when the last one that the
  // rule waits for has come. One with no samples, or left out as non-finite, is no part of that.
  // A late or repeated push is answered and not applied, and never lets a worker past the bound: if
  // the answer still waits, the newer destination takes over.
  // What the result held is lost, but for its memory, which is used again.
  // REQUIRES: the gradient was parsed for this chunk, and its codec fits it, as the answer's does.
  void push(const Push& push, PushResult& result);

  // Goes on by another rule: what waits is judged by it at once, and the answers that may go out
  // are returned. Contributions to incomplete means were accepted when they came, and stay so:
  // they are applied one by one, in order of arrival, if no means are taken from now on; otherwise
  // they wait for the new rule's. Throws as validate() does, and has changed nothing then.
  std::vector<Reply> set_rule(const Rule& rule);

  // Copies the values out and returns the version, which becomes the base of the worker's
  // staleness if it is live, and the answers that the rule lets go because of that. Throws
  // std::invalid_argument if the chunk has no values.
  // REQUIRES: the destination's codec fits the chunk.
  PullResult pull(std::uint32_t chunk, std::optional<std::uint32_t> worker, const Destination& out);

  // Forgets the answers that wait for a worker on a chunk. A contribution stays in the sum.
  void unpark(std::uint32_t chunk, std::uint32_t worker);
  std::size_t parked() const;  // answers that wait
  // Forgets all that waits, so that every owner comes back: the last call before the end.
  void abandon();

  // For checkpoints: the optimizer's buffers, by the names that state_names() gives, for each chunk
  // of parameters. They hold something from the first update or load_state() on. The last two throw
  // std::invalid_argument if there is no such buffer, state() also if it holds nothing.
  std::span<const std::string_view> state_names() const { return optimizer_.state_names(); }
  bool has_state(std::uint32_t chunk) const { return at(chunk).state_started; }
  void state(std::uint32_t chunk, std::string_view name, std::byte* out) const;
  void load_state(std::uint32_t chunk, std::string_view name, const std::byte* values);

  // Goes on from an earlier run's version, which is also the count of updates that the optimizer
  // and its learning rate go by. Throws std::invalid_argument once a worker takes part.
  void set_version(std::uint32_t chunk, std::uint64_t version);

  void set_lr(double lr) { optimizer_.set_lr(lr); }
  ShardStats stats() const;

  // The owners of memory that is no longer needed since the last call, in place of what was in
  // `freed`, whose own memory the next ones use.
  void take_freed(std::vector<void*>& freed) {
    freed.clear();
    freed.swap(freed_);
  }

 private:
  const Chunk& at(std::uint32_t chunk) const;
  Chunk& at(std::uint32_t chunk);
  std::byte* state_of(const Chunk& chunk, std::string_view name) const;

  // The parts of push().
  Outcome classify(const Chunk& chunk, const Push& push) const;
  void apply(Chunk& chunk, const Push& push, PushResult& result);
  void check_finite(const Chunk& chunk, const Push& push, PushResult& result);
  bool let_go_on(Chunk& chunk, const Push& push);
  void answer_again(Chunk& chunk, const Push& push, std::vector<Reply>& replies);
  void take_over_answer(Parked& entry, const Push& push);
  void note_arrival(const Arrival& arrival);

  // The parts of releasing what the rule lets go.
  enum class Look : std::uint8_t { kAtNewest, kAtAll };
  void settle(Chunk& chunk, Look look, std::vector<Reply>& replies);
  bool apply_means(Chunk& chunk, bool round_closed);
  void apply_gathered(Chunk& chunk);
  Reply reply_to(Chunk& chunk, const Parked& entry);

  // Each owner is freed when neither the answer nor the gradient of its entry needs it.
  void park(Chunk& chunk, Parked entry, const Push& push);
  void forget_answer(Parked& entry);
  void forget_gradient(Parked& entry);
  void free_rest(const Push& push, const Parked* entry);
  void free(void* owner);

  ShardOptions options_;
  ThreadPool pool_;
  Optimizer optimizer_;
  std::vector<Chunk> chunks_;
  std::size_t slab_nbytes_;
  Slab values_;
  std::vector<Slab> states_;                         // in the order of state_names()
  std::unordered_map<std::uint32_t, Slab> backups_;  // of each live worker, with compensation
  StalenessClock members_{std::nullopt};             // with the clocks that they joined at
  ShardStats stats_;
  std::uint64_t earlier_updates_ = 0;  // of versions that were set
  std::vector<void*> freed_;

  // Used within one call; kept so that a push allocates nothing.
  std::vector<Contribution> contributions_;
  std::vector<Destination> destinations_;
  std::vector<std::uint32_t> released_;
};

}  // namespace leash
