#include "core/optimizer.h"

#include <algorithm>
#include <cstring>

#include "core/slab.h"

namespace leash {
namespace {

double total_samples(std::span<const Contribution> contributions) {
  double total = 0.0;
  for (const Contribution& c : contributions) total += static_cast<double>(c.samples);
  return total;
}

// Notes that the chunk has changed; tells whether this is the first step of its momentum.
bool begin_update(Chunk& chunk) {
  ++chunk.version;
  const bool first = !chunk.momentum_started;
  chunk.momentum_started = chunk.momentum != nullptr;
  return first;
}

void take_values(Chunk& chunk, const std::byte* payload) {
  ++chunk.version;
  std::memcpy(chunk.values, payload, chunk.spec.nbytes());
}

}  // namespace

Optimizer::Optimizer(const SgdOptions& options, bool scale_lr, const Kernels& kernels)
    : options_(options), scale_lr_(scale_lr), kernels_(kernels) {
  validate(options_);
}

void Optimizer::set_lr(double lr) {
  SgdOptions changed = options_;
  changed.lr = lr;
  validate(changed);
  options_ = changed;
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
  const bool first = begin_update(chunk);
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    kernels_.of<T>().sgd(chunk.values_as<T>(), chunk.momentum_as<T>(), payload, reply,
                         chunk.spec.values, options_, first);
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
  SgdOptions options = options_;
  if (scale_lr_) options.lr *= static_cast<double>(contributions.size());
  const double total = total_samples(contributions);
  const bool first = begin_update(chunk);

  for (std::size_t begin = 0; begin < chunk.spec.values; begin += kBlock) {
    const std::size_t n = std::min(kBlock, chunk.spec.values - begin);
    const std::size_t offset = begin * sizeof(T);
    for (const Contribution& c : contributions) {
      const T weight = static_cast<T>(static_cast<double>(c.samples) / total);
      kernels.accumulate(sum, c.payload + offset, n, weight, &c == &contributions.front());
    }
    T* const values = chunk.values_as<T>() + begin;
    T* const momentum = chunk.momentum == nullptr ? nullptr : chunk.momentum_as<T>() + begin;
    kernels.sgd(values, momentum, reinterpret_cast<const std::byte*>(sum), nullptr, n, options,
                first);
    for (std::byte* reply : replies) std::memcpy(reply + offset, values, n * sizeof(T));
  }
}

}  // namespace leash
