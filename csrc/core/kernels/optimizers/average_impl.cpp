// The running average. Compiled once for each instruction set; see kernels_impl.h.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T, bool kKeep, bool kReply, bool kGuard>
[[gnu::noinline]] bool average_loop(const UpdateRange<T>& range,
                                    const RunningAverageStep<T>& step) noexcept {
  T* const w = range.w;
  T* const saved_w = range.saved[0];
  const std::byte* const gradient = range.gradient;
  std::byte* const reply = range.reply;
  const std::size_t n = range.n;
  const auto [keep, gain] = step;
  OverflowBits<T> overflow = 0;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    if constexpr (kGuard) saved_w[i] = w[i];
    T updated = gain * load<T>(gradient, i);
    // Whatever w was, infinite too, is gone when nothing of it is kept.
    if constexpr (kKeep) updated = keep * w[i] + updated;
    w[i] = updated;
    if constexpr (kGuard) overflow |= overflow_of(updated);
    if constexpr (kReply) store(reply, i, updated);
  }
  return is_finite(overflow);
}

template <typename T, bool kKeep, bool kReply>
bool average_with(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept {
  return range.is_guarded() ? average_loop<T, kKeep, kReply, true>(range, step)
                            : average_loop<T, kKeep, kReply, false>(range, step);
}

template <typename T, bool kKeep>
bool average_with(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept {
  return range.reply != nullptr ? average_with<T, kKeep, true>(range, step)
                                : average_with<T, kKeep, false>(range, step);
}

}  // namespace

template <typename T>
bool running_average(const UpdateRange<T>& range, const RunningAverageStep<T>& step) noexcept {
  return step.keep != 0 ? average_with<T, true>(range, step) : average_with<T, false>(range, step);
}

template bool running_average<float>(const UpdateRange<float>&,
                                     const RunningAverageStep<float>&) noexcept;
template bool running_average<double>(const UpdateRange<double>&,
                                      const RunningAverageStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
