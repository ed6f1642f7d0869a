// How what is pushed changes a chunk. Knows nothing of clocks and answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/kernels/kernels.h"
#include "core/optimizer/chunk_values.h"
#include "core/optimizer/optimizer_options.h"
#include "core/optimizer/schedule.h"
#include "core/optimizer/staleness.h"
#include "core/shard/chunk.h"

namespace leash {

// One worker's part of a complete bsp step.
struct Contribution {
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t samples;
  Encoded gradient;
};

// How an optimizer is used, beside its own options.
struct Application {
  Schedule schedule = {};
  // A mean of k gradients is applied with k times the learning rate, the linear scaling rule of
  // Goyal et al. 2017, arXiv:1706.02677, section 2.1.
  bool scale_lr = false;
  StalenessRate staleness_rate = {};
  DelayCompensation compensation = {};  // of SGD only
};

class Optimizer {
 public:
  // Throws std::invalid_argument as validate() does for each of the options, and for compensation
  // of another optimizer than SGD.
  Optimizer(const OptimizerOptions& options, const Application& application, const Kernels& kernels,
            ThreadPool& pool);

  // Throws std::invalid_argument.
  void set_lr(double lr);

  // The buffers that it keeps for each chunk of parameters.
  std::span<const std::string_view> state_names() const { return state_names_; }
  // Gives these buffers their first values, if they have none. REQUIRES: the chunk has them.
  void start_state(Chunk& chunk) const;

  // The index of the first NaN or infinity of a gradient for this chunk.
  std::optional<std::size_t> find_nonfinite(const Chunk& chunk, const Encoded& gradient) const;

  // Applies one gradient, so many updates stale, and writes the new values to reply, and to its
  // worker's backup if there is one, unless reply is null. Without a backup nothing is compensated.
  // REQUIRES: reply may be the memory of the gradient if it is in the gradient's codec; otherwise
  // no overlap.
  void apply(Chunk& chunk, const Encoded& gradient, const Destination* reply,
             std::uint64_t staleness, Backup* backup) const;

  // Applies the mean of the gradients, weighted by samples and summed in the order given, or, if
  // the parameters are sums, their plain sum in that order; for a buffer the last of them. Writes
  // the new values to every reply. REQUIRES: at least one contribution, each with samples > 0. For
  // each reply, as above.
  void apply_mean(Chunk& chunk, std::span<const Contribution> contributions,
                  std::span<const Destination> replies) const;

  // Writes the values as they are.
  void write(const Chunk& chunk, const Destination& to) const { write_values(chunk, to, kernels_); }
  // Keeps what was just written there as what a worker has, unless backup is null.
  void back_up(const Chunk& chunk, const Destination& written, Backup* backup) const;

 private:
  // The parameters are sums: pushes have the weight 1, and the rate is that of an average.
  bool sums() const { return std::holds_alternative<SumOptions>(options_); }
  // Counts an update of the chunk, made with lr_factor times the learning rate.
  template <typename T>
  OptimizerStep<T> begin_update(Chunk& chunk, double lr_factor) const;
  void take_values(Chunk& chunk, const Encoded& values) const;
  template <typename T>
  void descend(Chunk& chunk, const Encoded& gradient, const Destination* reply,
               std::uint64_t staleness, Backup* backup) const;
  template <typename T>
  void descend_along_mean(Chunk& chunk, std::span<const Contribution> contributions,
                          std::span<const Destination> replies) const;

  template <typename T>
  Stretch<T> stretch_of(const Chunk& chunk, std::size_t begin, std::size_t n,
                        const std::byte* gradient, std::byte* reply) const;
  template <typename T>
  Delayed<T> delayed_of(const Chunk& chunk, std::size_t begin, std::size_t n,
                        const std::byte* gradient, T* corrected, const Backup& backup) const;

  OptimizerOptions options_;
  Application application_;
  std::size_t own_states_;  // of the options; that of adaptive compensation comes after them
  std::vector<std::string_view> state_names_;
  const Kernels& kernels_;
  ThreadPool& pool_;  // its threads change no bit of a result
};

}  // namespace leash
