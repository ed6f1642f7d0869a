// Turns what workers push into updates of a chunk's values. Clocks and answers are the shard's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/codecs/memory.h"
#include "core/kernels/kernels.h"
#include "core/optimizer/block_update.h"
#include "core/optimizer/chunk_values.h"
#include "core/optimizer/segments.h"
#include "core/options/optimizer_options.h"
#include "core/options/options_table.h"
#include "core/options/schedule.h"
#include "core/options/staleness.h"

namespace leash {

// One worker's gradient in a mean.
struct Contribution {
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t samples;  // its weight, above 0
  Encoded gradient;       // without data if it is absent for all pieces
  PieceBits absent = {};  // for these pieces it counts as zeros
};

// What became of a gradient, or of a mean.
struct Applied {
  bool updated = false;  // false if there was no gradient for any piece
  // Where the first block lies that was left out, if any was, and in it the first value that would
  // not be finite.
  std::optional<std::size_t> nonfinite_index = {};
};

// How a push becomes an update, whichever optimizer makes it.
struct UpdateOptions {
  Schedule schedule = {};
  // A mean of k gradients is applied with k times the learning rate: the linear scaling rule of
  // Goyal et al. 2017, arXiv:1706.02677, section 2.1.
  bool scale_lr = false;
  StalenessRate staleness_rate = {};
  DelayCompensation compensation = {};  // for SGD only
  // No value is stored that is not finite: a block of kBlockValues values (the first begins where
  // the chunk does) of which one would be NaN or infinite, or one in its buffers, is left out of
  // the update. Without it no value is looked at.
  bool guards = true;
};

// Not synchronised: one call at a time. A call splits its work over the threads of the pool, which
// changes no bit of the result.
//
// REQUIRES: kernels and pool outlive the optimizer. Every chunk that it gets has its values, and
// the buffers that state_names() names if its kind is kParameter.
class Optimizer {
 public:
  // Throws std::invalid_argument as validate() does for each of the options, and if compensation is
  // on while the optimizer is not SGD.
  Optimizer(const OptimizerOptions& options, const UpdateOptions& update_options,
            const Kernels& kernels, ThreadPool& pool);

  // Replaces the learning rate from the next update on. Throws std::invalid_argument.
  void set_lr(double lr);

  // The names of the buffers that it needs for each chunk of parameters.
  std::span<const std::string_view> state_names() const { return state_names_; }
  // Writes the first values into the chunk's buffers, unless they hold something already.
  void start_state(ChunkValues& chunk) const;
  // Writes the first values of one of the chunk's buffers, as many as the chunk has, to `out`.
  void write_first_state(const ChunkValues& chunk, std::byte* out) const;

  // Returns the index of the first NaN or infinity of a gradient for this chunk, or of new values
  // for a buffer; there an infinity that the buffer holds already, as a mask may, is none.
  std::optional<std::size_t> find_nonfinite(const ChunkValues& chunk,
                                            const Encoded& gradient) const;

  // Applies one gradient, which was computed `staleness` updates ago, to the pieces that are not
  // absent. Unless reply is null, writes the new values to it and what its worker will decode from
  // it to the backup. A null backup means that nothing is compensated, a null table that all slots
  // have the optimizer's own options.
  // REQUIRES: not all pieces are absent. reply may be the memory of the gradient if both have the
  // same codec; otherwise they do not overlap.
  Applied apply(ChunkValues& chunk, const Encoded& gradient, PieceBits absent,
                const OptionsTable* table, const Destination* reply, std::uint64_t staleness,
                Backup* backup);

  // Applies the mean of the gradients, weighted by samples and summed in the order given; pieces
  // that are absent in all of them are left alone. If the parameters are sums (SumOptions), applies
  // the plain sum in that order; to a buffer, the last of the contributions. Writes the new values
  // to every reply.
  // REQUIRES: at least one contribution. Each reply: as for apply().
  Applied apply_mean(ChunkValues& chunk, std::span<const Contribution> contributions,
                     const OptionsTable* table, std::span<const Destination> replies);

  // Writes the chunk's values as they are.
  void write(const ChunkValues& chunk, const Destination& to) const {
    write_values(chunk, to, kernels_);
  }
  // Copies what the worker will decode from an answer that was just written to its backup, unless
  // that is null.
  void back_up(const ChunkValues& chunk, const Destination& written, Backup* backup) const;

 private:
  template <typename T>
  std::vector<Segment<T>>& segments();

  // Whether the parameters are sums: a mean then weights every push by 1, and scale_lr is ignored.
  bool sums() const { return std::holds_alternative<SumOptions>(options_); }
  // Counts an update of the pieces that are not absent, and returns how each is updated at
  // lr_factor times the learning rate. by_piece: each piece is a segment of its own.
  template <typename T>
  std::span<const Segment<T>> begin_update(ChunkValues& chunk, PieceBits absent,
                                           const OptionsTable* table, double lr_factor,
                                           bool by_piece);
  // The bits of the pieces that are absent in all contributions.
  PieceBits absent_in_all(const ChunkValues& chunk, std::span<const Contribution> contributions);
  // Writes the chunk's values to every destination, each thread a part of them.
  void write_in_parts(const ChunkValues& chunk, std::span<const Destination> destinations) const;
  // Replaces the values of a buffer.
  Applied replace_values(ChunkValues& chunk, const Encoded& values);
  // apply() and apply_mean() for a chunk of parameters of type T, at lr_factor times the learning
  // rate. Return the nonfinite_index. REQUIRES: with a backup, one reply at most.
  template <typename T>
  std::optional<std::size_t> update(ChunkValues& chunk, const Encoded& gradient, PieceBits absent,
                                    const OptionsTable* table, double lr_factor,
                                    std::span<const Destination> replies, Backup* backup);
  template <typename T>
  std::optional<std::size_t> update_by_mean(ChunkValues& chunk,
                                            std::span<const Contribution> contributions,
                                            PieceBits absent, const OptionsTable* table,
                                            std::span<const Destination> replies);

  // The kernel's arguments for the n values of the chunk from `begin` on. gradient and corrected
  // lead to the first of these values, backup to the first of the chunk.
  template <typename T>
  CompensationRange<T> compensation_range(const ChunkValues& chunk, std::size_t begin,
                                          std::size_t n, const std::byte* gradient, T* corrected,
                                          const Backup& backup) const;

  OptimizerOptions options_;
  UpdateOptions update_options_;
  std::vector<std::string_view> state_names_;  // adaptive compensation adds one to the optimizer's
  const Kernels& kernels_;
  ThreadPool& pool_;
  BlockUpdate blocks_;

  // Each is used within one call, and kept for the next, which then need not allocate it.
  std::vector<Segment<float>> segments_f32_;
  std::vector<Segment<double>> segments_f64_;
  std::vector<std::uint8_t> absent_;
  std::vector<std::byte> copied_;
};

}  // namespace leash
