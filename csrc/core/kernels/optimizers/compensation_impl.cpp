// Delay compensation. Compiled once for each instruction set; see kernels_impl.h.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

// lambda is multiplied by the change of w first, so that where nothing has changed the correction
// is 0, however large g is: g * g alone may be infinite.
template <typename T>
[[gnu::noinline]] void correct_by_constant(const CompensationRange<T>& range,
                                           const CompensationStep<T>& step) noexcept {
  const auto [w, backup, mean_square, gradient, corrected, n] = range;
  const T lambda = step.lambda;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    const T g = load<T>(gradient, i);
    corrected[i] = g + lambda * (w[i] - backup[i]) * g * g;
  }
}

template <typename T>
[[gnu::noinline]] void correct_by_mean_square(const CompensationRange<T>& range,
                                              const CompensationStep<T>& step) noexcept {
  const auto [w, backup, mean_square, gradient, corrected, n] = range;
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
void compensate(const CompensationRange<T>& range, const CompensationStep<T>& step) noexcept {
  if (range.mean_square != nullptr) {
    correct_by_mean_square(range, step);
  } else {
    correct_by_constant(range, step);
  }
}

template void compensate<float>(const CompensationRange<float>&,
                                const CompensationStep<float>&) noexcept;
template void compensate<double>(const CompensationRange<double>&,
                                 const CompensationStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
