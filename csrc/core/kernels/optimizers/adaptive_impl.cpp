// Adam and Adagrad, which divide a step by the size of the gradients so far. Compiled once for each
// instruction set; see kernels_impl.h.
//
// Each loop copies its arguments to local variables first. The reply is an array of bytes, so the
// compiler has to assume that a store to it changes an argument that is read through a reference,
// and would not vectorise the loop.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T, bool kWeightDecay, bool kAmsgrad, bool kReply, bool kGuard>
[[gnu::noinline]] bool adam_loop(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n, saved] = range;
  const auto [exp_avg, exp_avg_sq, largest] = state;
  const auto [step_size, keep, weight_decay, beta2, gain1, gain2, correction, eps, sign, amsgrad] =
      step;
  const auto [saved_w, saved_avg, saved_avg_sq, saved_largest] = saved;
  OverflowBits<T> overflow = 0;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    if constexpr (kGuard) {
      saved_w[i] = w[i];
      saved_avg[i] = exp_avg[i];
      saved_avg_sq[i] = exp_avg_sq[i];
    }
    T g = sign * load<T>(gradient, i);
    if constexpr (kWeightDecay) g = g + weight_decay * w[i];
    const T m = exp_avg[i] + gain1 * (g - exp_avg[i]);
    const T v = beta2 * exp_avg_sq[i] + gain2 * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    T divisor = v;
    if constexpr (kAmsgrad) {
      if constexpr (kGuard) saved_largest[i] = largest[i];
      divisor = largest[i] >= v ? largest[i] : v;
      largest[i] = divisor;
    }
    const T denominator = square_root(divisor) / correction + eps;
    const T updated = keep * w[i] - step_size * m / denominator;
    w[i] = updated;
    // The divisor is v, or larger.
    if constexpr (kGuard) overflow |= overflow_of(m) | overflow_of(divisor) | overflow_of(updated);
    if constexpr (kReply) store(reply, i, updated);
  }
  return is_finite(overflow);
}

template <typename T, bool kWeightDecay, bool kAmsgrad, bool kReply>
bool adam_with(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  return range.is_guarded() ? adam_loop<T, kWeightDecay, kAmsgrad, kReply, true>(range, step)
                            : adam_loop<T, kWeightDecay, kAmsgrad, kReply, false>(range, step);
}

template <typename T, bool kWeightDecay, bool kAmsgrad>
bool adam_with(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  return range.reply != nullptr ? adam_with<T, kWeightDecay, kAmsgrad, true>(range, step)
                                : adam_with<T, kWeightDecay, kAmsgrad, false>(range, step);
}

template <typename T, bool kWeightDecay, bool kReply, bool kGuard>
[[gnu::noinline]] bool adagrad_loop(const UpdateRange<T>& range,
                                    const AdagradStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n, saved] = range;
  T* const sum = state[0];
  T* const saved_w = saved[0];
  T* const saved_sum = saved[1];
  const auto [lr, weight_decay, eps, sign] = step;
  OverflowBits<T> overflow = 0;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    if constexpr (kGuard) {
      saved_w[i] = w[i];
      saved_sum[i] = sum[i];
    }
    T g = sign * load<T>(gradient, i);
    if constexpr (kWeightDecay) g = g + weight_decay * w[i];
    const T squares = sum[i] + g * g;
    sum[i] = squares;
    const T updated = w[i] - lr * g / (square_root(squares) + eps);
    w[i] = updated;
    if constexpr (kGuard) overflow |= overflow_of(squares) | overflow_of(updated);
    if constexpr (kReply) store(reply, i, updated);
  }
  return is_finite(overflow);
}

template <typename T, bool kWeightDecay, bool kReply>
bool adagrad_with(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept {
  return range.is_guarded() ? adagrad_loop<T, kWeightDecay, kReply, true>(range, step)
                            : adagrad_loop<T, kWeightDecay, kReply, false>(range, step);
}

template <typename T, bool kWeightDecay>
bool adagrad_with(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept {
  return range.reply != nullptr ? adagrad_with<T, kWeightDecay, true>(range, step)
                                : adagrad_with<T, kWeightDecay, false>(range, step);
}

}  // namespace

template <typename T>
bool adam(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  if (step.weight_decay != 0) {
    return step.amsgrad ? adam_with<T, true, true>(range, step)
                        : adam_with<T, true, false>(range, step);
  }
  return step.amsgrad ? adam_with<T, false, true>(range, step)
                      : adam_with<T, false, false>(range, step);
}

template <typename T>
bool adagrad(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept {
  return step.weight_decay != 0 ? adagrad_with<T, true>(range, step)
                                : adagrad_with<T, false>(range, step);
}

template bool adam<float>(const UpdateRange<float>&, const AdamStep<float>&) noexcept;
template bool adam<double>(const UpdateRange<double>&, const AdamStep<double>&) noexcept;
template bool adagrad<float>(const UpdateRange<float>&, const AdagradStep<float>&) noexcept;
template bool adagrad<double>(const UpdateRange<double>&, const AdagradStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
