// The running average. Compiled once for each instruction set; see kernels_impl.h.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T, bool kKeep, bool kReply>
[[gnu::noinline]] void average_loop(const UpdateRange<T>& range,
                                    const RunningAverageStep<T>& step) noexcept {
  T* const w = range.w;
  const std::byte* const gradient = range.gradient;
  std::byte* const reply = range.reply;
  const std::size_t n = range.n;
  const auto [keep, gain] = step;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T updated = gain * load<T>(gradient, i);
    // Whatever w was, infinite too, is gone when nothing of it is kept.
    if constexpr (kKeep) updated = keep * w[i] + updated;
    w[i] = updated;
    if constexpr (kReply) store(reply, i, updated);
  }
}

template <typename T, bool kKeep>
void average_with(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept {
  if (range.reply != nullptr) {
    average_loop<T, kKeep, true>(range, step);
  } else {
    average_loop<T, kKeep, false>(range, step);
  }
}

}  // namespace

template <typename T>
void running_average(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept {
  if (step.keep != 0) {
    average_with<T, true>(range, step);
  } else {
    average_with<T, false>(range, step);
  }
}

template void running_average<float>(const UpdateRange<float>&,
                                     const RunningAverageStep<float>&) noexcept;
template void running_average<double>(const UpdateRange<double>&,
                                      const RunningAverageStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
