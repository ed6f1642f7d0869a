// The optimizers that divide by the size of the gradients so far.
//
// Their arguments are copied first: a store to the reply, which is bytes, might change an argument
// for all that the compiler knows, and a loop with such a store does not vectorise.

#include "core/kernels/kernels_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T, bool kDecay, bool kAmsgrad, bool kReply>
[[gnu::noinline]] void adam_loop(const Stretch<T>& stretch, const AdamStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n] = stretch;
  const auto [exp_avg, exp_avg_sq, largest] = state;
  const auto [step_size, keep, weight_decay, beta2, gain1, gain2, correction, eps, sign, amsgrad] =
      step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T g = sign * load<T>(gradient, i);
    if constexpr (kDecay) g = g + weight_decay * w[i];
    const T m = exp_avg[i] + gain1 * (g - exp_avg[i]);
    const T v = beta2 * exp_avg_sq[i] + gain2 * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    T divisor = v;
    if constexpr (kAmsgrad) {
      divisor = largest[i] >= v ? largest[i] : v;
      largest[i] = divisor;
    }
    const T denominator = square_root(divisor) / correction + eps;
    const T updated = keep * w[i] - step_size * m / denominator;
    w[i] = updated;
    if constexpr (kReply) store(reply, i, updated);
  }
}

template <typename T, bool kDecay, bool kAmsgrad>
void adam_with(const Stretch<T>& stretch, const AdamStep<T>& step) noexcept {
  if (stretch.reply != nullptr) {
    adam_loop<T, kDecay, kAmsgrad, true>(stretch, step);
  } else {
    adam_loop<T, kDecay, kAmsgrad, false>(stretch, step);
  }
}

template <typename T, bool kDecay, bool kReply>
[[gnu::noinline]] void adagrad_loop(const Stretch<T>& stretch,
                                    const AdagradStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n] = stretch;
  T* const sum = state[0];
  const auto [lr, weight_decay, eps, sign] = step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T g = sign * load<T>(gradient, i);
    if constexpr (kDecay) g = g + weight_decay * w[i];
    const T squares = sum[i] + g * g;
    sum[i] = squares;
    const T updated = w[i] - lr * g / (square_root(squares) + eps);
    w[i] = updated;
    if constexpr (kReply) store(reply, i, updated);
  }
}

template <typename T, bool kDecay>
void adagrad_with(const Stretch<T>& stretch, const AdagradStep<T>& step) noexcept {
  if (stretch.reply != nullptr) {
    adagrad_loop<T, kDecay, true>(stretch, step);
  } else {
    adagrad_loop<T, kDecay, false>(stretch, step);
  }
}

}  // namespace

template <typename T>
void adam(const Stretch<T>& stretch, const AdamStep<T>& step) noexcept {
  if (step.weight_decay != 0) {
    step.amsgrad ? adam_with<T, true, true>(stretch, step)
                 : adam_with<T, true, false>(stretch, step);
  } else {
    step.amsgrad ? adam_with<T, false, true>(stretch, step)
                 : adam_with<T, false, false>(stretch, step);
  }
}

template <typename T>
void adagrad(const Stretch<T>& stretch, const AdagradStep<T>& step) noexcept {
  if (step.weight_decay != 0) {
    adagrad_with<T, true>(stretch, step);
  } else {
    adagrad_with<T, false>(stretch, step);
  }
}

template void adam<float>(const Stretch<float>&, const AdamStep<float>&) noexcept;
template void adam<double>(const Stretch<double>&, const AdamStep<double>&) noexcept;
template void adagrad<float>(const Stretch<float>&, const AdagradStep<float>&) noexcept;
template void adagrad<double>(const Stretch<double>&, const AdagradStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
