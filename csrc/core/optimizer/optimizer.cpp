#include "core/optimizer/optimizer.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <variant>

#include "core/base/slab.h"
#include "core/optimizer/optimizer_step.h"

namespace leash {
namespace {

double total_samples(std::span<const Contribution> contributions) {
  double total = 0.0;
  for (const Contribution& c : contributions) total += static_cast<double>(c.samples);
  return total;
}

// Sets `least` to the value if that is lower.
void store_minimum(std::atomic<std::size_t>& least, std::size_t value) {
  std::size_t old = least;
  while (value < old && !least.compare_exchange_weak(old, value)) {
  }
}

// Where the kernel itself can write the new values: in a raw reply. Null without one.
std::byte* raw_data(const Destination* reply) {
  return reply == nullptr || reply->codec != Codec::kRaw ? nullptr : reply->data;
}

}  // namespace

Optimizer::Optimizer(const OptimizerOptions& options, const UpdateOptions& update_options,
                     const Kernels& kernels, ThreadPool& pool)
    : options_(options),
      update_options_(update_options),
      own_states_(leash::state_names(options).size()),
      kernels_(kernels),
      pool_(pool) {
  validate(options_);
  validate(update_options_.schedule);
  validate(update_options_.staleness_rate);
  validate(update_options_.compensation);
  const auto own = leash::state_names(options_);
  state_names_.assign(own.begin(), own.end());
  if (!update_options_.compensation.is_on()) return;
  if (!std::holds_alternative<SgdOptions>(options_)) {
    throw std::invalid_argument("compensation: expected 'none', since it corrects SGD only");
  }
  if (update_options_.compensation.kind == CompensationKind::kAdaptive) {
    state_names_.push_back("dc_mean_square");
  }
}

void Optimizer::set_lr(double lr) {
  OptimizerOptions changed = options_;
  set_learning_rate(changed, lr);
  validate(changed);
  options_ = changed;
}

void Optimizer::start_state(ChunkValues& chunk) const {
  if (chunk.state_started) return;
  chunk.state_started = true;
  const auto* adagrad = std::get_if<AdagradOptions>(&options_);
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    const T first = adagrad ? static_cast<T>(adagrad->initial_accumulator_value) : T{0};
    for (std::size_t i = 0; i < state_names().size(); ++i) {
      std::fill_n(chunk.state_as<T>(i), chunk.spec.values, first);
    }
  });
}

template <typename T>
OptimizerStep<T> Optimizer::begin_update(ChunkValues& chunk, double lr_factor) const {
  const bool fresh = !chunk.state_started;
  const bool is_plain_sgd =
      std::holds_alternative<SgdOptions>(options_) && state_names_.size() == own_states_;
  if (is_plain_sgd) {
    // The kernel starts its buffer, with this update's gradient.
    chunk.state_started = chunk.states[0] != nullptr;
  } else {
    start_state(chunk);
  }
  const double base = update_options_.schedule.lr(learning_rate(options_), chunk.version);
  const double lr = base * lr_factor;
  ++chunk.version;
  return step_of<T>(options_, lr, chunk.version, fresh);
}

std::optional<std::size_t> Optimizer::find_nonfinite(const ChunkValues& chunk,
                                                     const Encoded& gradient) const {
  if (gradient.codec != Codec::kRaw) return leash::find_nonfinite(gradient);
  const std::size_t n = chunk.spec.values;
  std::atomic<std::size_t> first = n;
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    pool_.split(n, [&](std::size_t begin, std::size_t count) {
      const std::byte* const values = gradient.data + begin * sizeof(T);
      const std::size_t found = kernels_.of<T>().first_nonfinite(values, count);
      if (found < count) store_minimum(first, begin + found);
    });
  });
  return first == n ? std::nullopt : std::optional(first.load());
}

void Optimizer::apply(ChunkValues& chunk, const Encoded& gradient, const Destination* reply,
                      std::uint64_t staleness, Backup* backup) const {
  if (chunk.spec.kind == ChunkKind::kBuffer) {
    replace_values(chunk, gradient);
    if (reply != nullptr && reply->data != gradient.data) write(chunk, *reply);
    return;
  }
  with_dtype(chunk.spec.dtype,
             [&]<typename T>() { update<T>(chunk, gradient, reply, staleness, backup); });
}

void Optimizer::apply_mean(ChunkValues& chunk, std::span<const Contribution> contributions,
                           std::span<const Destination> replies) const {
  if (chunk.spec.kind == ChunkKind::kBuffer) {
    replace_values(chunk, contributions.back().gradient);
    for (const Destination& reply : replies) write(chunk, reply);
    return;
  }
  with_dtype(chunk.spec.dtype,
             [&]<typename T>() { update_by_mean<T>(chunk, contributions, replies); });
}

void Optimizer::replace_values(ChunkValues& chunk, const Encoded& values) const {
  ++chunk.version;
  std::memcpy(chunk.values, values.data, chunk.spec.nbytes());
}

void Optimizer::back_up(const ChunkValues& chunk, const Destination& written,
                        Backup* backup) const {
  if (backup == nullptr) return;
  backup->filled = true;
  pool_.split(chunk.spec.values, [&](std::size_t begin, std::size_t n) {
    read_back(chunk, written, begin, n, backup->values, kernels_);
  });
}

template <typename T>
UpdateRange<T> Optimizer::update_range(const ChunkValues& chunk, std::size_t begin, std::size_t n,
                                       const std::byte* gradient, std::byte* reply) const {
  UpdateRange<T> range{
      .w = chunk.values_as<T>() + begin, .state = {}, .gradient = gradient, .reply = reply, .n = n};
  for (std::size_t i = 0; i < own_states_; ++i) range.state[i] = chunk.state_as<T>(i) + begin;
  return range;
}

template <typename T>
CompensationRange<T> Optimizer::compensation_range(const ChunkValues& chunk, std::size_t begin,
                                                   std::size_t n, const std::byte* gradient,
                                                   T* corrected, const Backup& backup) const {
  const bool is_adaptive = update_options_.compensation.kind == CompensationKind::kAdaptive;
  // The parameters that a worker had before its first answer are not known. With the present ones
  // in their place the correction is 0.
  const T* const had =
      backup.filled ? reinterpret_cast<const T*>(backup.values) : chunk.values_as<T>();
  return {.w = chunk.values_as<T>() + begin,
          .backup = had + begin,
          .mean_square = is_adaptive ? chunk.state_as<T>(own_states_) + begin : nullptr,
          .gradient = gradient,
          .corrected = corrected,
          .n = n};
}

// A raw gradient with a raw reply or none, and no compensation, takes one call of the kernel in
// each thread. Everything else goes block by block. What was decoded or corrected, and what is
// still to be encoded or backed up, then stays in the first-level cache, so that the update remains
// one pass over memory.
template <typename T>
void Optimizer::update(ChunkValues& chunk, const Encoded& gradient, const Destination* reply,
                       std::uint64_t staleness, Backup* backup) const {
  const auto step = begin_update<T>(chunk, update_options_.staleness_rate.factor(staleness));
  const bool compensates = update_options_.compensation.is_on() && backup != nullptr;
  const auto compensation =
      compensation_step_of<T>(update_options_.compensation, maximizes(options_));
  const bool encodes = reply != nullptr && reply->codec != Codec::kRaw;
  std::byte* const raw_reply = raw_data(reply);
  const bool is_raw = gradient.codec == Codec::kRaw && !encodes && !compensates;

  pool_.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
    const std::size_t longest = is_raw ? count : kBlockValues;
    alignas(kCacheLine) T decoded[kBlockValues];
    for (std::size_t begin = first; begin < first + count; begin += longest) {
      const std::size_t n = std::min(longest, first + count - begin);
      const std::byte* values = read_values(gradient, begin, n, decoded, kernels_);
      if (compensates) {
        kernels_.of<T>().compensate(compensation_range(chunk, begin, n, values, decoded, *backup),
                                    compensation);
        values = reinterpret_cast<const std::byte*>(decoded);
      }
      std::byte* const out = raw_reply == nullptr ? nullptr : raw_reply + begin * sizeof(T);
      apply_step(kernels_.of<T>(), step, update_range<T>(chunk, begin, n, values, out));
      if (encodes) write_values(chunk, *reply, begin, n, kernels_);
      if (compensates && reply != nullptr) {
        read_back(chunk, *reply, begin, n, backup->values, kernels_);
      }
    }
  });
  if (compensates && reply != nullptr) backup->filled = true;
}

// Goes block by block: the sum stays in the first-level cache, and a reply is written to the memory
// of a gradient while that is in the cache too.
template <typename T>
void Optimizer::update_by_mean(ChunkValues& chunk, std::span<const Contribution> contributions,
                               std::span<const Destination> replies) const {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  const bool is_sum = sums();
  const double total = total_samples(contributions);
  const bool scales = update_options_.scale_lr && !is_sum;
  const auto step =
      begin_update<T>(chunk, scales ? static_cast<double>(contributions.size()) : 1.0);

  pool_.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
    alignas(kCacheLine) T sum[kBlockValues];
    alignas(kCacheLine) T decoded[kBlockValues];
    for (std::size_t begin = first; begin < first + count; begin += kBlockValues) {
      const std::size_t n = std::min(kBlockValues, first + count - begin);
      for (const Contribution& c : contributions) {
        const T weight = is_sum ? T{1} : static_cast<T>(static_cast<double>(c.samples) / total);
        const std::byte* const values = read_values(c.gradient, begin, n, decoded, kernels_);
        kernels.accumulate(sum, values, n, weight, &c == &contributions.front());
      }
      const auto* const mean = reinterpret_cast<const std::byte*>(sum);
      apply_step(kernels, step, update_range<T>(chunk, begin, n, mean, nullptr));
      for (const Destination& reply : replies) write_values(chunk, reply, begin, n, kernels_);
    }
  });
}

}  // namespace leash
