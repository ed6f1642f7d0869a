#include "core/optimizer.h"

#include <algorithm>
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

void take_values(Chunk& chunk, const std::byte* payload) {
  ++chunk.version;
  std::memcpy(chunk.values, payload, chunk.spec.nbytes());
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
                     const Kernels& kernels)
    : options_(options), schedule_(schedule), scale_lr_(scale_lr), kernels_(kernels) {
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
                                                     const std::byte* payload) const {
  const std::size_t n = chunk.spec.values;
  const std::size_t found = with_dtype(
      chunk.spec.dtype, [&]<typename T>() { return kernels_.of<T>().first_nonfinite(payload, n); });
  return found == n ? std::nullopt : std::optional(found);
}

void Optimizer::apply(Chunk& chunk, const std::byte* payload, std::byte* reply) const {
  if (chunk.spec.kind == Kind::kBuffer) {
    take_values(chunk, payload);
    if (reply != nullptr && reply != payload) chunk.copy_values(reply);
    return;
  }
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    const OptimizerStep<T> step = begin_update<T>(chunk, 1.0);
    advance(kernels_.of<T>(), step, stretch_of<T>(chunk, 0, chunk.spec.values, payload, reply));
  });
}

void Optimizer::apply_mean(Chunk& chunk, std::span<const Contribution> contributions,
                           std::span<std::byte* const> replies) const {
  if (chunk.spec.kind == Kind::kBuffer) {
    take_values(chunk, contributions.back().payload);
    for (std::byte* reply : replies) chunk.copy_values(reply);
    return;
  }
  with_dtype(chunk.spec.dtype,
             [&]<typename T>() { descend_along_mean<T>(chunk, contributions, replies); });
}

// Block by block, so that the sum stays in the first-level cache, and a reply is written while the
// gradient that lay in the same memory is still there too.
template <typename T>
void Optimizer::descend_along_mean(Chunk& chunk, std::span<const Contribution> contributions,
                                   std::span<std::byte* const> replies) const {
  constexpr std::size_t kBlock = 4096 / sizeof(T);
  alignas(kCacheLine) T sum[kBlock];
  const KernelsFor<T>& kernels = kernels_.of<T>();
  const double total = total_samples(contributions);
  const auto step =
      begin_update<T>(chunk, scale_lr_ ? static_cast<double>(contributions.size()) : 1.0);

  for (std::size_t begin = 0; begin < chunk.spec.values; begin += kBlock) {
    const std::size_t n = std::min(kBlock, chunk.spec.values - begin);
    const std::size_t offset = begin * sizeof(T);
    for (const Contribution& c : contributions) {
      const T weight = static_cast<T>(static_cast<double>(c.samples) / total);
      kernels.accumulate(sum, c.payload + offset, n, weight, &c == &contributions.front());
    }
    const auto* const mean = reinterpret_cast<const std::byte*>(sum);
    advance(kernels, step, stretch_of<T>(chunk, begin, n, mean, nullptr));
    for (std::byte* reply : replies)
      std::memcpy(reply + offset, chunk.values + offset, n * sizeof(T));
  }
}

}  // namespace leash
