#include "core/kernels/kernels_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

// lambda * delta comes first: where nothing has changed the correction is 0, however large g is.
template <typename T>
[[gnu::noinline]] void correct_by_constant(const Delayed<T>& delayed,
                                           const DelayStep<T>& step) noexcept {
  const auto [w, backup, mean_square, gradient, corrected, n] = delayed;
  const T lambda = step.lambda;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    const T g = load<T>(gradient, i);
    corrected[i] = g + lambda * (w[i] - backup[i]) * g * g;
  }
}

template <typename T>
[[gnu::noinline]] void correct_by_mean_square(const Delayed<T>& delayed,
                                              const DelayStep<T>& step) noexcept {
  const auto [w, backup, mean_square, gradient, corrected, n] = delayed;
  const auto [lambda, decay, gain, eps] = step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    const T g = load<T>(gradient, i);
    const T squares = decay * mean_square[i] + gain * g * g;
    mean_square[i] = squares;
    const T strength = lambda / square_root(squares + eps);
    corrected[i] = g + strength * (w[i] - backup[i]) * g * g;
  }
}

}  // namespace

template <typename T>
void compensate(const Delayed<T>& delayed, const DelayStep<T>& step) noexcept {
  if (delayed.mean_square != nullptr) {
    correct_by_mean_square(delayed, step);
  } else {
    correct_by_constant(delayed, step);
  }
}

template void compensate<float>(const Delayed<float>&, const DelayStep<float>&) noexcept;
template void compensate<double>(const Delayed<double>&, const DelayStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
