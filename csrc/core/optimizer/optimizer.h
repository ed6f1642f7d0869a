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
#include "core/optimizer/chunk_values.h"
#include "core/optimizer/optimizer_options.h"
#include "core/optimizer/schedule.h"
#include "core/optimizer/staleness.h"

namespace leash {

// One worker's gradient in a mean.
struct Contribution {
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t samples;  // its weight, above 0
  Encoded gradient;
};

// How a push becomes an update, whichever optimizer makes it.
struct UpdateOptions {
  Schedule schedule = {};
  // A mean of k gradients is applied with k times the learning rate: the linear scaling rule of
  // Goyal et al. 2017, arXiv:1706.02677, section 2.1.
  bool scale_lr = false;
  StalenessRate staleness_rate = {};
  DelayCompensation compensation = {};  // for SGD only
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

  // Returns the index of the first NaN or infinity of a gradient for this chunk.
  std::optional<std::size_t> find_nonfinite(const ChunkValues& chunk,
                                            const Encoded& gradient) const;

  // Applies one gradient, which was computed `staleness` updates ago. Unless reply is null, writes
  // the new values to it and what its worker will decode from it to the backup. A null backup means
  // that nothing is compensated.
  // REQUIRES: reply may be the memory of the gradient if both have the same codec; otherwise they
  // do not overlap.
  void apply(ChunkValues& chunk, const Encoded& gradient, const Destination* reply,
             std::uint64_t staleness, Backup* backup) const;

  // Applies the mean of the gradients, weighted by samples and summed in the order given. If the
  // parameters are sums (SumOptions), applies the plain sum in that order; to a buffer, the last of
  // the contributions. Writes the new values to every reply.
  // REQUIRES: at least one contribution. Each reply: as for apply().
  void apply_mean(ChunkValues& chunk, std::span<const Contribution> contributions,
                  std::span<const Destination> replies) const;

  // Writes the chunk's values as they are.
  void write(const ChunkValues& chunk, const Destination& to) const {
    write_values(chunk, to, kernels_);
  }
  // Copies what the worker will decode from an answer that was just written to its backup, unless
  // that is null.
  void back_up(const ChunkValues& chunk, const Destination& written, Backup* backup) const;

 private:
  // Whether the parameters are sums: a mean then weights every push by 1, and scale_lr is ignored.
  bool sums() const { return std::holds_alternative<SumOptions>(options_); }
  // Counts an update of the chunk, and returns its numbers at lr_factor times the learning rate.
  template <typename T>
  OptimizerStep<T> begin_update(ChunkValues& chunk, double lr_factor) const;
  // Replaces the values of a buffer.
  void replace_values(ChunkValues& chunk, const Encoded& values) const;
  // apply() and apply_mean() for a chunk of parameters of type T.
  template <typename T>
  void update(ChunkValues& chunk, const Encoded& gradient, const Destination* reply,
              std::uint64_t staleness, Backup* backup) const;
  template <typename T>
  void update_by_mean(ChunkValues& chunk, std::span<const Contribution> contributions,
                      std::span<const Destination> replies) const;

  // The kernels' arguments for the n values of the chunk from `begin` on. gradient, reply and
  // corrected lead to the first of these values, backup to the first of the chunk.
  template <typename T>
  UpdateRange<T> update_range(const ChunkValues& chunk, std::size_t begin, std::size_t n,
                              const std::byte* gradient, std::byte* reply) const;
  template <typename T>
  CompensationRange<T> compensation_range(const ChunkValues& chunk, std::size_t begin,
                                          std::size_t n, const std::byte* gradient, T* corrected,
                                          const Backup& backup) const;

  OptimizerOptions options_;
  UpdateOptions update_options_;
  std::size_t own_states_;  // how many buffers the options need; adaptive compensation adds one
  std::vector<std::string_view> state_names_;
  const Kernels& kernels_;
  ThreadPool& pool_;
};

}  // namespace leash
