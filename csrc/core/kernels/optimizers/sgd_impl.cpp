// SGD. Compiled once for each instruction set; see kernels_impl.h.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

// The parts of SGD that a loop may have. Each set of parts has a loop of its own, without branches.
constexpr unsigned kWeightDecay = 1;
constexpr unsigned kMomentum = 2;
constexpr unsigned kFirst = 4;
constexpr unsigned kNesterov = 8;
constexpr unsigned kReply = 16;
constexpr unsigned kGuard = 32;
constexpr unsigned kAllParts = 63;

// Without momentum, neither `first` nor `nesterov` makes a difference.
constexpr unsigned normalized(unsigned parts) {
  return (parts & kMomentum) != 0 ? parts : parts & ~(kFirst | kNesterov);
}

template <typename T, unsigned kParts>
[[gnu::noinline]] bool sgd_loop(const UpdateRange<T>& range, const SgdStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n, saved] = range;
  T* const momentum = state[0];
  T* const saved_w = saved[0];
  T* const saved_momentum = saved[1];
  const auto [lr, weight_decay, momentum_factor, undampened, sign, nesterov, first] = step;
  OverflowBits<T> overflow = 0;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    if constexpr ((kParts & kGuard) != 0) saved_w[i] = w[i];
    T g = sign * load<T>(gradient, i);
    if constexpr ((kParts & kWeightDecay) != 0) g = g + weight_decay * w[i];
    if constexpr ((kParts & kMomentum) != 0) {
      if constexpr ((kParts & kGuard) != 0) saved_momentum[i] = momentum[i];
      T velocity = g;
      if constexpr ((kParts & kFirst) == 0) {
        velocity = momentum_factor * momentum[i] + undampened * g;
      }
      momentum[i] = velocity;
      if constexpr ((kParts & kGuard) != 0) overflow |= overflow_of(velocity);
      if constexpr ((kParts & kNesterov) != 0) {
        g = g + momentum_factor * velocity;
      } else {
        g = velocity;
      }
    }
    const T updated = w[i] - lr * g;
    w[i] = updated;
    if constexpr ((kParts & kGuard) != 0) overflow |= overflow_of(updated);
    if constexpr ((kParts & kReply) != 0) store(reply, i, updated);
  }
  return is_finite(overflow);
}

// Calls the loop for `parts`, which is among kParts and those below it.
template <typename T, unsigned kParts = kAllParts>
bool dispatch(unsigned parts, const UpdateRange<T>& range, const SgdStep<T>& step) noexcept {
  if constexpr (normalized(kParts) == kParts) {
    if (parts == kParts) return sgd_loop<T, kParts>(range, step);
  }
  if constexpr (kParts > 0) {
    return dispatch<T, kParts - 1>(parts, range, step);
  } else {
    __builtin_unreachable();
  }
}

}  // namespace

template <typename T>
bool sgd(const UpdateRange<T>& range, const SgdStep<T>& step) noexcept {
  const unsigned parts = (step.weight_decay != 0 ? kWeightDecay : 0) |
                         (range.state[0] != nullptr ? kMomentum : 0) | (step.first ? kFirst : 0) |
                         (step.nesterov ? kNesterov : 0) | (range.reply != nullptr ? kReply : 0) |
                         (range.is_guarded() ? kGuard : 0);
  return dispatch<T>(normalized(parts), range, step);
}

template bool sgd<float>(const UpdateRange<float>&, const SgdStep<float>&) noexcept;
template bool sgd<double>(const UpdateRange<double>&, const SgdStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
