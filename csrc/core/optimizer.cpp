#include "core/optimizer.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <variant>

#include "core/slab.h"

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

// The n values of the chunk from `begin`.
template <typename T>
Stretch<T> stretch_of(const Chunk& chunk, std::size_t begin, std::size_t n,
                      const std::byte* gradient, std::byte* reply) {
  Stretch<T> stretch{
      .w = chunk.values_as<T>() + begin, .state = {}, .gradient = gradient, .reply = reply, .n = n};
  for (std::size_t i = 0; i < kMaxStates && chunk.states[i] != nullptr; ++i) {
    stretch.state[i] = chunk.state_as<T>(i) + begin;
  }
  return stretch;
}

}  // namespace

Optimizer::Optimizer(const OptimizerOptions& options, const Schedule& schedule, bool scale_lr,
                     const Kernels& kernels, ThreadPool& pool)
    : options_(options), schedule_(schedule), scale_lr_(scale_lr), kernels_(kernels), pool_(pool) {
  validate(options_);
  validate(schedule_);
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
  const bool is_sgd = std::holds_alternative<SgdOptions>(options_);
  if (is_sgd) {
    // Its buffer begins with the first gradient, in the pass that comes.
    chunk.state_started = chunk.states[0] != nullptr;
  } else {
    start_state(chunk);
  }
  const double lr = schedule_.lr(learning_rate(options_), chunk.version) * lr_factor;
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

void Optimizer::apply(Chunk& chunk, const Encoded& gradient, const Destination* reply) const {
  if (chunk.spec.kind == Kind::kBuffer) {
    take_values(chunk, gradient);
    if (reply != nullptr && reply->data != gradient.data) write(chunk, *reply);
    return;
  }
  with_dtype(chunk.spec.dtype, [&]<typename T>() { descend<T>(chunk, gradient, reply); });
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

// Raw to raw is one long loop. Everything else goes block by block, so that what was decoded, and
// what is to be encoded, is in the first-level cache.
template <typename T>
void Optimizer::descend(Chunk& chunk, const Encoded& gradient, const Destination* reply) const {
  const auto step = begin_update<T>(chunk, 1.0);
  const bool encodes = reply != nullptr && reply->codec != Codec::kRaw;
  std::byte* const raw_reply = reply == nullptr || encodes ? nullptr : reply->data;
  const bool is_raw = gradient.codec == Codec::kRaw && !encodes;

  pool_.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
    const std::size_t longest = is_raw ? count : kBlockValues;
    alignas(kCacheLine) T decoded[kBlockValues];
    for (std::size_t begin = first; begin < first + count; begin += longest) {
      const std::size_t n = std::min(longest, first + count - begin);
      const std::byte* const values = read_values(gradient, begin, n, decoded, kernels_);
      std::byte* const out = raw_reply == nullptr ? nullptr : raw_reply + begin * sizeof(T);
      advance(kernels_.of<T>(), step, stretch_of<T>(chunk, begin, n, values, out));
      if (encodes) write_values(chunk, *reply, begin, n, kernels_);
    }
  });
}

// Block by block, so that the sum stays in the first-level cache, and a reply is written while the
// gradient that lay in the same memory is still there too.
template <typename T>
void Optimizer::descend_along_mean(Chunk& chunk, std::span<const Contribution> contributions,
                                   std::span<const Destination> replies) const {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  const bool is_sum = sums();
  const double total = total_samples(contributions);
  const bool scales = scale_lr_ && !is_sum;
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
