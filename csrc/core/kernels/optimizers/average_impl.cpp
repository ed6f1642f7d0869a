#include "core/kernels/kernels_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T, bool kKeep, bool kReply>
[[gnu::noinline]] void sum_loop(const Stretch<T>& stretch, const SumStep<T>& step) noexcept {
  T* const w = stretch.w;
  const std::byte* const gradient = stretch.gradient;
  std::byte* const reply = stretch.reply;
  const std::size_t n = stretch.n;
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
void sum_with(const Stretch<T>& stretch, const SumStep<T>& step) noexcept {
  if (stretch.reply != nullptr) {
    sum_loop<T, kKeep, true>(stretch, step);
  } else {
    sum_loop<T, kKeep, false>(stretch, step);
  }
}

}  // namespace

template <typename T>
void sum(const Stretch<T>& stretch, const SumStep<T>& step) noexcept {
  if (step.keep != 0) {
    sum_with<T, true>(stretch, step);
  } else {
    sum_with<T, false>(stretch, step);
  }
}

template void sum<float>(const Stretch<float>&, const SumStep<float>&) noexcept;
template void sum<double>(const Stretch<double>&, const SumStep<double>&) noexcept;

}  // namespace leash::LEASH_KERNELS
