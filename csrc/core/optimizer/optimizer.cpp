#include "core/optimizer/optimizer.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <variant>

#include "core/base/slab.h"

namespace leash {
namespace {

double total_samples(std::span<const Contribution> contributions) {
  double total = 0.0;
  for (const Contribution& c : contributions) total += static_cast<double>(c.samples);
  return total;
}

// Sets `least` to the value if that is lower.
void lower(std::atomic<std::size_t>& least, std::size_t value) {
  std::size_t old = least;
  while (value < old && !least.compare_exchange_weak(old, value)) {
  }
}

// Where a direct copy of the values is to be written, if anywhere.
std::byte* raw_data(const Destination* reply) {
  return reply == nullptr || reply->codec != Codec::kRaw ? nullptr : reply->data;
}

}  // namespace

Optimizer::Optimizer(const OptimizerOptions& options, const Application& application,
                     const Kernels& kernels, ThreadPool& pool)
    : options_(options),
      application_(application),
      own_states_(leash::state_names(options).size()),
      kernels_(kernels),
      pool_(pool) {
  validate(options_);
  validate(application_.schedule);
  validate(application_.staleness_rate);
  validate(application_.compensation);
  const auto own = leash::state_names(options_);
  state_names_.assign(own.begin(), own.end());
  if (!application_.compensation.is_on()) return;
  if (!std::holds_alternative<SgdOptions>(options_)) {
    throw std::invalid_argument("compensation: expected 'none', since it corrects SGD only");
  }
  if (application_.compensation.kind == Compensation::kAdaptive) {
    state_names_.push_back("dc_mean_square");
  }
}

void Optimizer::set_lr(double lr) {
  OptimizerOptions changed = options_;
  set_learning_rate(changed, lr);
  validate(changed);
  options_ = changed;
}

void Optimizer::start_state(Chunk& chunk) const {
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
OptimizerStep<T> Optimizer::begin_update(Chunk& chunk, double lr_factor) const {
  const bool fresh = !chunk.state_started;
  const bool is_plain_sgd =
      std::holds_alternative<SgdOptions>(options_) && state_names_.size() == own_states_;
  if (is_plain_sgd) {
    // Its buffer begins with the first gradient, in the pass that comes.
    chunk.state_started = chunk.states[0] != nullptr;
  } else {
    start_state(chunk);
  }
  const double base = application_.schedule.lr(learning_rate(options_), chunk.version);
  const double lr = base * lr_factor;
  ++chunk.version;
  return step_of<T>(options_, lr, chunk.version, fresh);
}

std::optional<std::size_t> Optimizer::find_nonfinite(const Chunk& chunk,
                                                     const Encoded& gradient) const {
  if (gradient.codec != Codec::kRaw) return leash::find_nonfinite(gradient);
  const std::size_t n = chunk.spec.values;
  std::atomic<std::size_t> first = n;
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    pool_.split(n, [&](std::size_t begin, std::size_t count) {
      const std::byte* const values = gradient.data + begin * sizeof(T);
      const std::size_t found = kernels_.of<T>().first_nonfinite(values, count);
      if (found < count) lower(first, begin + found);
    });
  });
  return first == n ? std::nullopt : std::optional(first.load());
}

void Optimizer::apply(Chunk& chunk, const Encoded& gradient, const Destination* reply,
                      std::uint64_t staleness, Backup* backup) const {
  if (chunk.spec.kind == Kind::kBuffer) {
    take_values(chunk, gradient);
    if (reply != nullptr && reply->data != gradient.data) write(chunk, *reply);
    return;
  }
  with_dtype(chunk.spec.dtype,
             [&]<typename T>() { descend<T>(chunk, gradient, reply, staleness, backup); });
}

void Optimizer::apply_mean(Chunk& chunk, std::span<const Contribution> contributions,
                           std::span<const Destination> replies) const {
  if (chunk.spec.kind == Kind::kBuffer) {
    take_values(chunk, contributions.back().gradient);
    for (const Destination& reply : replies) write(chunk, reply);
    return;
  }
  with_dtype(chunk.spec.dtype,
             [&]<typename T>() { descend_along_mean<T>(chunk, contributions, replies); });
}

void Optimizer::take_values(Chunk& chunk, const Encoded& values) const {
  ++chunk.version;
  std::memcpy(chunk.values, values.data, chunk.spec.nbytes());
}

void Optimizer::back_up(const Chunk& chunk, const Destination& written, Backup* backup) const {
  if (backup == nullptr) return;
  backup->filled = true;
  pool_.split(chunk.spec.values, [&](std::size_t begin, std::size_t n) {
    read_back(chunk, written, begin, n, backup->values, kernels_);
  });
}

// The n values of the chunk from `begin`.
template <typename T>
Stretch<T> Optimizer::stretch_of(const Chunk& chunk, std::size_t begin, std::size_t n,
                                 const std::byte* gradient, std::byte* reply) const {
  Stretch<T> stretch{
      .w = chunk.values_as<T>() + begin, .state = {}, .gradient = gradient, .reply = reply, .n = n};
  for (std::size_t i = 0; i < own_states_; ++i) stretch.state[i] = chunk.state_as<T>(i) + begin;
  return stretch;
}

template <typename T>
Delayed<T> Optimizer::delayed_of(const Chunk& chunk, std::size_t begin, std::size_t n,
                                 const std::byte* gradient, T* corrected,
                                 const Backup& backup) const {
  const bool is_adaptive = application_.compensation.kind == Compensation::kAdaptive;
  // What it had before its first answer is not known: nothing is corrected.
  const T* const had =
      backup.filled ? reinterpret_cast<const T*>(backup.values) : chunk.values_as<T>();
  return {.w = chunk.values_as<T>() + begin,
          .backup = had + begin,
          .mean_square = is_adaptive ? chunk.state_as<T>(own_states_) + begin : nullptr,
          .gradient = gradient,
          .corrected = corrected,
          .n = n};
}

// Raw to raw is one long loop. Everything else goes block by block, so that what was decoded or
// corrected, and what is to be encoded or backed up, is in the first-level cache: it stays one
// pass over memory.
template <typename T>
void Optimizer::descend(Chunk& chunk, const Encoded& gradient, const Destination* reply,
                        std::uint64_t staleness, Backup* backup) const {
  const auto step = begin_update<T>(chunk, application_.staleness_rate.factor(staleness));
  const bool compensates = application_.compensation.is_on() && backup != nullptr;
  const auto delay = delay_step_of<T>(application_.compensation, maximizes(options_));
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
        kernels_.of<T>().compensate(delayed_of(chunk, begin, n, values, decoded, *backup), delay);
        values = reinterpret_cast<const std::byte*>(decoded);
      }
      std::byte* const out = raw_reply == nullptr ? nullptr : raw_reply + begin * sizeof(T);
      advance(kernels_.of<T>(), step, stretch_of<T>(chunk, begin, n, values, out));
      if (encodes) write_values(chunk, *reply, begin, n, kernels_);
      if (compensates && reply != nullptr) {
        read_back(chunk, *reply, begin, n, backup->values, kernels_);
      }
    }
  });
  if (compensates && reply != nullptr) backup->filled = true;
}

// Block by block, so that the sum stays in the first-level cache, and a reply is written while the
// gradient that lay in the same memory is still there too.
template <typename T>
void Optimizer::descend_along_mean(Chunk& chunk, std::span<const Contribution> contributions,
                                   std::span<const Destination> replies) const {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  const bool is_sum = sums();
  const double total = total_samples(contributions);
  const bool scales = application_.scale_lr && !is_sum;
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
      advance(kernels, step, stretch_of<T>(chunk, begin, n, mean, nullptr));
      for (const Destination& reply : replies) write_values(chunk, reply, begin, n, kernels_);
    }
  });
}

}  // namespace leash
