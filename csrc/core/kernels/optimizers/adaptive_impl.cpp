// Adam and Adagrad, which divide a step by the size of the gradients so far. Compiled once for each
// instruction set; see kernels_impl.h.
//
// Each loop copies its arguments to local variables first. The reply is an array of bytes, so the
// compiler has to assume that a store to it changes an argument that is read through a reference,
// and would not vectorise the loop.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T, bool kWeightDecay, bool kAmsgrad, bool kReply>
[[gnu::noinline]] void adam_loop(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n] = range;
  const auto [exp_avg, exp_avg_sq, largest] = state;
  const auto [step_size, keep, weight_decay, beta2, gain1, gain2, correction, eps, sign, amsgrad] =
      step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T g = sign * load<T>(gradient, i);
    if constexpr (kWeightDecay) g = g + weight_decay * w[i];
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

template <typename T, bool kWeightDecay, bool kAmsgrad>
void adam_with(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  if (range.reply != nullptr) {
    adam_loop<T, kWeightDecay, kAmsgrad, true>(range, step);
  } else {
    adam_loop<T, kWeightDecay, kAmsgrad, false>(range, step);
  }
}

template <typename T, bool kWeightDecay, bool kReply>
[[gnu::noinline]] void adagrad_loop(const UpdateRange<T>& range,
                                    const AdagradStep<T>& step) noexcept {
  const auto [w, state, gradient, reply, n] = range;
  T* const sum = state[0];
  const auto [lr, weight_decay, eps, sign] = step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T g = sign * load<T>(gradient, i);
    if constexpr (kWeightDecay) g = g + weight_decay * w[i];
    const T squares = sum[i] + g * g;
    sum[i] = squares;
    const T updated = w[i] - lr * g / (square_root(squares) + eps);
    w[i] = updated;
    if constexpr (kReply) store(reply, i, updated);
  }
}

template <typename T, bool kWeightDecay>
void adagrad_with(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept {
  if (range.reply != nullptr) {
    adagrad_loop<T, kWeightDecay, true>(range, step);
  } else {
    adagrad_loop<T, kWeightDecay, false>(range, step);
  }
}

}  // namespace

template <typename T>
void adam(const UpdateRange<T>& range, const AdamStep<T>& step) noexcept {
  if (step.weight_decay != 0) {
    step.amsgrad ? adam_with<T, true, true>(range, step) : adam_with<T, true, false>(range, step);
  } else {
    step.amsgrad ? adam_with<T, false, true>(range, step) : adam_with<T, false, false>(range, step);
  }
}

template <typename T>
void adagrad(const UpdateRange<T>& range, const AdagradStep<T>& step) noexcept {
  if (step.weight_decay != 0) {
    adagrad_with<T, true>(range, step);
  } else {
    adagrad_with<T, false>(range, step);
  }
}

template void adam<float>(const UpdateRange<float>&, const AdamStep<float>&) noexcept;
template void adam<double>(const UpdateRange<double>&, const AdamStep<double>&) noexcept;
template void adagrad<float>(const UpdateRange<float>&, const AdagradStep<float>&) noexcept;
template void adagrad<double>(const UpdateRange<double>&, const AdagradStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
