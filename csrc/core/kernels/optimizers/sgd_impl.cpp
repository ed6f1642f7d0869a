#include "core/kernels/kernels_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

// The parts of SGD that a loop has or lacks. One loop for each set of parts keeps it branch-free.
constexpr unsigned kDecay = 1;
constexpr unsigned kMomentum = 2;
constexpr unsigned kFirst = 4;
constexpr unsigned kNesterov = 8;
constexpr unsigned kReply = 16;
constexpr unsigned kAllParts = 31;

// Without momentum there is neither a first update nor Nesterov's look ahead.
constexpr unsigned normalized(unsigned parts) {
  return (parts & kMomentum) != 0 ? parts : parts & ~(kFirst | kNesterov);
}

template <typename T, unsigned kParts>
[[gnu::noinline]] void sgd_loop(const Stretch<T>& stretch, const SgdStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n] = stretch;
  T* const momentum = state[0];
  const auto [lr, weight_decay, momentum_factor, undampened, sign, nesterov, first] = step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T g = sign * load<T>(gradient, i);
    if constexpr ((kParts & kDecay) != 0) g = g + weight_decay * w[i];
    if constexpr ((kParts & kMomentum) != 0) {
      T velocity = g;
      if constexpr ((kParts & kFirst) == 0) {
        velocity = momentum_factor * momentum[i] + undampened * g;
      }
      momentum[i] = velocity;
      if constexpr ((kParts & kNesterov) != 0) {
        g = g + momentum_factor * velocity;
      } else {
        g = velocity;
      }
    }
    const T updated = w[i] - lr * g;
    w[i] = updated;
    if constexpr ((kParts & kReply) != 0) store(reply, i, updated);
  }
}

// The loop for `parts`, found among kParts and those below it.
template <typename T, unsigned kParts = kAllParts>
void run(unsigned parts, const Stretch<T>& stretch, const SgdStep<T>& step) noexcept {
  if (parts == kParts) {
    if constexpr (normalized(kParts) == kParts) sgd_loop<T, kParts>(stretch, step);
  } else if constexpr (kParts > 0) {
    run<T, kParts - 1>(parts, stretch, step);
  }
}

}  // namespace

template <typename T>
void sgd(const Stretch<T>& stretch, const SgdStep<T>& step) noexcept {
  const unsigned parts = (step.weight_decay != 0 ? kDecay : 0) |
                         (stretch.state[0] != nullptr ? kMomentum : 0) | (step.first ? kFirst : 0) |
                         (step.nesterov ? kNesterov : 0) | (stretch.reply != nullptr ? kReply : 0);
  run<T>(normalized(parts), stretch, step);
}

template void sgd<float>(const Stretch<float>&, const SgdStep<float>&) noexcept;
template void sgd<double>(const Stretch<double>&, const SgdStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
