// A contiguous run of chunks, with the parameters, the optimizer's buffers and the clocks. A
// message of a worker is one call.
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
#include "core/options/optimizer_options.h"
#include "core/shard/chunk.h"
#include "core/shard/push.h"
#include "core/shard/snapshot.h"
#include "core/shard/stats.h"

namespace leash {

struct ShardOptions {
  OptimizerOptions optimizer;
  Rule rule;
  Nonfinite nonfinite;
  bool scale_lr = false;  // as in UpdateOptions, like schedule, staleness_rate and compensation
  Schedule schedule = {};
  std::uint32_t first_chunk = 0;  // the number of this shard's first chunk in the whole model
  std::size_t threads = 1;        // how many share the work on a large chunk
  StalenessRate staleness_rate = {};
  DelayCompensation compensation = {};  // costs one copy of the parameters for each live worker
};

// Throws std::invalid_argument for options that contradict each other.
void validate(const ShardOptions& options);

// Not synchronised: the caller makes one call at a time, from any thread. chunks() and spec() read
// nothing that changes, and may be called at any time.
//
// In a steady state push() and take_freed() allocate nothing, if the caller passes them what they
// filled before: every list has then reached its largest size.
//
// Whoever calls push() owns the memory of the Push, and leaves it as it is until take_freed()
// returns its owner. Each push's owners come back once each (one owner, if the answer goes where
// the gradient is), in the call that needed the memory last or a later one.
//
// Chunks are numbered as in the whole model, from options.first_chunk. Every function that takes a
// number throws std::out_of_range if that chunk is not of this shard.
class Shard {
 public:
  // Throws std::invalid_argument for options that contradict each other, std::bad_alloc.
  Shard(const std::vector<ChunkSpec>& specs, const ShardOptions& options);

  std::size_t chunks() const { return chunks_.size(); }
  const ChunkSpec& spec(std::uint32_t chunk) const { return at(chunk).spec; }
  const Rule& rule() const { return options_.rule; }

  // Copies a chunk's first values, and returns true. Returns false, and changes nothing, if the
  // chunk has values already. Throws std::invalid_argument if a parameter is not finite, unless
  // Nonfinite::kApply looks at no value.
  // REQUIRES: values holds the chunk's nbytes. The same for every pointer below.
  bool init(std::uint32_t chunk, const std::byte* values);
  bool initialized(std::uint32_t chunk) const { return at(chunk).initialized; }
  std::size_t initialized_chunks() const;

  // Throws std::invalid_argument, and changes nothing, if the worker is live or any chunk's
  // clock refuses it; with compensation also std::bad_alloc.
  void join(std::uint32_t worker, std::uint64_t clock);
  // Forgets the worker, its waiting answers and its gradients in incomplete means. Returns the
  // answers to others that waited only for it. Throws NotLive.
  std::vector<Reply> leave(std::uint32_t worker);
  std::vector<std::uint32_t> workers() const { return members_.workers(); }  // ascending

  // A step that is new on every chunk: the largest of their minimums, plus one.
  std::uint64_t first_step() const;
  std::uint64_t clock(std::uint32_t chunk, std::uint32_t worker) const;  // throws NotLive
  std::uint64_t minimum(std::uint32_t chunk) const { return at(chunk).clock().minimum(); }
  std::uint64_t version(std::uint32_t chunk) const { return at(chunk).version; }

  // Applies a push exactly once, ticks the worker's clock, and puts every answer that may go out
  // now into the result. What the result held before is lost, except its memory, which is used
  // again.
  //
  // Where the rule takes means, the gradient is kept until the last one that the rule waits for has
  // come; they are then combined in the order of worker ids. A gradient with no samples, or one
  // that was left out as non-finite, has no part in the mean.
  //
  // A gradient that is applied on arrival is applied block by block: a block with a value that
  // would not be finite afterwards is left out. One that is kept for a mean is looked at when it
  // comes, and has no part in the mean if any value is not finite.
  //
  // A repeated push is answered and not applied, and never lets a worker past the bound: if the
  // answer to its first copy still waits, it waits for the newer destination instead.
  // REQUIRES: the gradient was parsed for this chunk, check_codec() accepts its codec, and
  // check_answer_codec() the answer's.
  void push(const Push& push, PushResult& result);

  // Gives a worker options of its own for groups of slots, by which its pushes are applied from now
  // on; a mean is applied by those of the lowest worker that has a part in it. Throws NotLive,
  // and std::invalid_argument as validate() does, or if a slot of this shard has no group, or one
  // that limits the norm of rows while its pieces are not made up of whole rows.
  void set_options(std::uint32_t worker, OptionsTable table);

  // Replaces a chunk's values, as an update that no optimizer has a part in: its buffers and counts
  // stay. Returns the index of the first value that is not finite, and has changed nothing then.
  // Throws std::invalid_argument if the chunk has no values yet.
  std::optional<std::size_t> publish(std::uint32_t chunk, const std::byte* values);

  // Puts values of another server of the run, with their version, in place of a chunk's own; the
  // optimizer's buffers and counts stay. Returns the index of the first value that is not finite,
  // and has changed nothing then. Throws std::invalid_argument once a worker takes part.
  std::optional<std::size_t> heal(std::uint32_t chunk, const std::byte* values,
                                  std::uint64_t version);
  // Counts the steps of all workers up to this one as taken on a chunk, which has their gradients.
  // REQUIRES: no worker has pushed yet.
  void skip_to(std::uint32_t chunk, std::uint64_t step);

  // The means of which a block was left out since the last call.
  std::vector<Overflow> take_overflows() { return std::exchange(overflows_, {}); }

  // Replaces the rule. The new rule applies at once, also to workers that already wait; returns the
  // answers that it lets go. Gradients of incomplete means were accepted when they came, and are
  // not lost: if the new rule takes no means they are applied one by one, in order of arrival,
  // otherwise they wait for its means. Throws as validate() does, and has changed nothing then.
  std::vector<Reply> set_rule(const Rule& rule);

  // Ends a stall under Gather::kRound, in which every worker waits for a round of another chunk:
  // all rounds are given up. The gradients that wait for them are dropped, as are those of the rest
  // of the steps that workers are in, so that all begin their next one together. Returns the
  // answers that waited. Does nothing under another rule.
  std::vector<Reply> give_up_rounds();

  // Writes the chunk's values to the destination and returns their version, from which the worker's
  // staleness is then counted if it is live, with the answers that the rule lets go because of
  // that. Throws std::invalid_argument if the chunk has no values. REQUIRES: check_answer_codec()
  // accepts the destination's codec.
  PullResult pull(std::uint32_t chunk, std::optional<std::uint32_t> worker, const Destination& out);

  // Forgets the answers that wait for a worker on a chunk. Its gradients stay in their means.
  void unpark(std::uint32_t chunk, std::uint32_t worker);
  std::size_t parked() const;  // how many answers wait
  // Forgets everything that waits, so that take_freed() returns every owner. To be called last.
  void abandon();

  // The optimizer's buffers, for checkpoints. Each chunk of parameters has one for every name of
  // state_names(); from its first update or load_state() on, has_state() is true and they hold
  // something; before, state() writes what they will begin with. state() and load_state() throw
  // std::invalid_argument if the chunk has no such buffer, load_state() also for values that no
  // optimizer leaves there: one that is not finite, or a negative sum of squares.
  std::span<const std::string_view> state_names() const { return optimizer_.state_names(); }
  bool has_state(std::uint32_t chunk) const { return at(chunk).state_started; }
  void state(std::uint32_t chunk, std::string_view name, std::byte* out) const;
  void load_state(std::uint32_t chunk, std::string_view name, const std::byte* values);

  // Sets the version at which an earlier run ended. It is also the count of updates from which
  // optimizer and learning rate go on in each piece, unless set_updates() tells others. Throws
  // std::invalid_argument once a worker takes part.
  void set_version(std::uint32_t chunk, std::uint64_t version);
  // How many updates each piece of a chunk has seen. set_updates() throws as set_version() does,
  // and unless there is one number for each piece.
  std::vector<std::uint64_t> updates(std::uint32_t chunk) const;
  void set_updates(std::uint32_t chunk, const std::vector<std::uint64_t>& updates);

  // Opens the snapshot: until it is closed, read_snapshot() gives the numbers that the shard has
  // now, whatever changes. A chunk is copied before it changes, unless it was released. One that
  // was open is closed. Returns what each chunk has beside its numbers. Throws
  // std::invalid_argument if a chunk has no values.
  std::vector<ChunkMoment> open_snapshot();
  // Copies the bytes of a chunk from `begin` on, as many as `out` has, of its values (array 0) or
  // of the buffer state_names()[array - 1]. Throws std::invalid_argument if no snapshot is open, or
  // the chunk was released, or has no such bytes; std::bad_alloc if a copy had no room in memory.
  void read_snapshot(std::uint32_t chunk, std::size_t array, std::size_t begin,
                     std::span<std::byte> out) const;
  // Lets go of a chunk that has been read.
  void release_snapshot(std::uint32_t chunk);
  void close_snapshot();
  std::size_t snapshot_nbytes() const { return snapshot_ ? snapshot_->nbytes : 0; }  // of copies

  void set_lr(double lr) { optimizer_.set_lr(lr); }
  ShardStats stats() const;

  // Puts the owners whose memory was needed at the last call and is not any more in place of what
  // `freed` held. The list's own memory is used for the next ones.
  void take_freed(std::vector<void*>& freed) {
    freed.clear();
    freed.swap(freed_);
  }

 private:
  const Chunk& at(std::uint32_t chunk) const;
  Chunk& at(std::uint32_t chunk);
  std::byte* state_of(const Chunk& chunk, std::string_view name) const;
  // These two throw std::invalid_argument, which names the chunk.
  void require_finite(const Chunk& chunk, const std::byte* values, const char* what) const;
  void require_non_negative(const Chunk& chunk, const std::byte* values,
                            std::string_view name) const;

  // Copies what the open snapshot still needs of a chunk. To be called before a chunk changes.
  void keep_for_snapshot(Chunk& chunk) {
    if (chunk.is_read_in_place) [[unlikely]]
      copy_for_snapshot(chunk);
  }
  void copy_for_snapshot(Chunk& chunk);
  const std::byte* snapshot_of(const Chunk& chunk, std::size_t array) const;
  std::size_t place_of(const Chunk& chunk) const;   // in chunks_
  std::size_t arrays_of(const Chunk& chunk) const;  // its values and its buffers

  // The parts of push().
  Outcome classify(const Chunk& chunk, const Push& push) const;
  void apply(Chunk& chunk, const Push& push, PushResult& result);
  bool has_nonfinite(const Chunk& chunk, const Push& push, PushResult& result) const;
  void note_nonfinite(PushResult& result);
  const OptionsTable* table_of(std::uint32_t worker) const;
  static void require_options(const Chunk& chunk, std::size_t piece, const OptionsTable& table);
  bool let_go_on(Chunk& chunk, const Push& push);
  void answer_again(Chunk& chunk, const Push& push, std::vector<Reply>& replies);
  void take_over_answer(Parked& entry, const Push& push);
  void count_arrival(const Arrival& arrival);

  // Which entries of Chunk::parked a call may have set free: only the one that it has added, or
  // any.
  enum class Candidates : std::uint8_t { kNewest, kAll };
  // Applies the means that are complete, then appends every answer that the rule lets go.
  void release_answers(Chunk& chunk, Candidates candidates, std::vector<Reply>& replies);
  bool apply_means(Chunk& chunk, bool round_closed);
  void apply_gathered(Chunk& chunk);
  Reply reply_to(Chunk& chunk, const Parked& entry);

  // An owner is given back as soon as neither the answer nor the gradient of its entry needs it.
  void park(Chunk& chunk, Parked entry, const Push& push);
  void keep_bits(PieceBits bits, std::vector<std::uint8_t>& kept);
  void forget_answer(Parked& entry);
  void forget_gradient(Parked& entry);
  void give_back_rest(const Push& push, const void* answer = nullptr,
                      const void* gradient = nullptr);
  void give_back(void* owner);

  ShardOptions options_;
  ThreadPool pool_;
  Optimizer optimizer_;
  std::vector<Chunk> chunks_;
  std::size_t slab_nbytes_;
  Slab values_;
  std::vector<Slab> states_;                         // in the order of state_names()
  std::unordered_map<std::uint32_t, Slab> backups_;  // by live worker; empty without compensation
  StepClock members_{std::nullopt};  // the live workers, at the clocks they joined at
  ShardStats stats_;
  std::uint64_t earlier_updates_ = 0;  // versions that set_version() set: not this shard's updates
  std::vector<void*> freed_;           // what take_freed() will return
  std::vector<Overflow> overflows_;
  std::optional<Snapshot> snapshot_;
  std::unordered_map<std::uint32_t, OptionsTable> tables_;  // of live workers that have one
  std::vector<std::vector<std::uint8_t>> spare_bits_;       // of entries that have gone

  // Each is used within one call, and kept for the next, which then need not allocate it.
  std::vector<Contribution> contributions_;
  std::vector<Destination> destinations_;
  std::vector<std::uint32_t> released_;
};

}  // namespace leash
