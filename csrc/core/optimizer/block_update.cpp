#include "core/optimizer/block_update.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/base/slab.h"

namespace leash {
namespace {

// What a guard can save: a block of the parameters and of each buffer, or more blocks of fewer.
constexpr std::size_t kSavedValues = (1 + kMaxStates) * kBlockValues;

template <typename T>
void clamp(T* values, std::size_t n, T least, T most) {
  // A NaN stays one, as in torch.
  for (std::size_t i = 0; i < n; ++i) {
    const T raised = values[i] < least ? least : values[i];
    values[i] = raised > most ? most : raised;
  }
}

}  // namespace

template <typename T>
std::size_t BlockUpdate::update(const Segment<T>& segment, std::size_t begin,
                                const UpdateRange<T>& range) const {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  if (guards_) {
    return segment.clamps ? update_copies<T>(segment, range, nullptr, {})
                          : update_or_restore(segment, begin, range);
  }
  if (!segment.clamps) {
    apply_step(kernels, segment.step, range);
    return range.n;
  }
  UpdateRange<T> unanswered = range;
  unanswered.reply = nullptr;
  apply_step(kernels, segment.step, unanswered);
  clamp(range.w, range.n, segment.least, segment.most);
  if (range.reply != nullptr) std::memcpy(range.reply, range.w, range.n * sizeof(T));
  return range.n;
}

template <typename T>
std::size_t BlockUpdate::update_corrected(const Segment<T>& segment, std::size_t begin,
                                          UpdateRange<T> range,
                                          const CompensationRange<T>& correction,
                                          const CompensationStep<T>& step) const {
  if (guards_) return update_copies(segment, range, &correction, step);
  kernels_.of<T>().compensate(correction, step);
  range.gradient = reinterpret_cast<const std::byte*>(correction.corrected);
  return update(segment, begin, range);
}

template <typename T>
std::size_t BlockUpdate::update_or_restore(const Segment<T>& segment, std::size_t begin,
                                           UpdateRange<T> range) const {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  alignas(kCacheLine) T saved[kSavedValues];
  const std::size_t arrays = 1 + segment.buffers;
  for (std::size_t i = 0; i < arrays; ++i) range.saved[i] = saved + i * range.n;
  if (apply_step(kernels, segment.step, range)) return range.n;
  std::size_t lowest = range.n;
  for (std::size_t at = 0; at < range.n;) {
    const std::size_t to_end = kBlockValues - (begin + at) % kBlockValues;
    const std::size_t n = std::min(to_end, range.n - at);
    lowest = std::min(lowest, restore_unless_finite(range, arrays, at, n));
    at += n;
  }
  return lowest;
}

// Puts back what the n values from `at` on were, unless all are finite. Returns the index in the
// range of the first that is not, or the range's length.
template <typename T>
std::size_t BlockUpdate::restore_unless_finite(const UpdateRange<T>& range, std::size_t arrays,
                                               std::size_t at, std::size_t n) const {
  T* updated[1 + kMaxStates] = {range.w};
  std::copy_n(range.state, kMaxStates, updated + 1);
  std::size_t found = n;
  for (std::size_t i = 0; i < arrays; ++i) {
    const auto* const values = reinterpret_cast<const std::byte*>(updated[i] + at);
    found = std::min(found, kernels_.of<T>().first_nonfinite(values, n));
  }
  if (found == n) return range.n;
  for (std::size_t i = 0; i < arrays; ++i) {
    std::copy_n(range.saved[i] + at, n, updated[i] + at);
  }
  if (range.reply != nullptr) {
    std::memcpy(range.reply + at * sizeof(T), range.w + at, n * sizeof(T));
  }
  return at + found;
}

template <typename T>
[[gnu::noinline]] std::size_t BlockUpdate::update_copies(
    const Segment<T>& segment, const UpdateRange<T>& range,
    const CompensationRange<T>* compensation, const CompensationStep<T>& compensation_step) const {
  // One after the other: the parameters, the optimizer's buffers, the mean square.
  T* originals[kMaxStates + 2] = {range.w};
  alignas(kCacheLine) T copies[kMaxStates + 2][kBlockValues];
  std::size_t arrays = 1;
  UpdateRange<T> copied = range;
  copied.w = copies[0];
  copied.reply = nullptr;
  for (std::size_t i = 0; i < kMaxStates && range.state[i] != nullptr; ++i, ++arrays) {
    originals[arrays] = range.state[i];
    copied.state[i] = copies[arrays];
  }
  CompensationRange<T> corrected{};
  if (compensation != nullptr) {
    corrected = *compensation;
    if (compensation->mean_square != nullptr) {
      originals[arrays] = compensation->mean_square;
      corrected.mean_square = copies[arrays];
      ++arrays;
    }
  }
  for (std::size_t i = 0; i < arrays; ++i) std::copy_n(originals[i], range.n, copies[i]);

  const KernelsFor<T>& kernels = kernels_.of<T>();
  if (compensation != nullptr) {
    kernels.compensate(corrected, compensation_step);
    copied.gradient = reinterpret_cast<const std::byte*>(corrected.corrected);
  }
  apply_step(kernels, segment.step, copied);
  if (segment.clamps) clamp(copied.w, range.n, segment.least, segment.most);
  std::size_t found = range.n;
  for (std::size_t i = 0; i < arrays; ++i) {
    const auto* const values = reinterpret_cast<const std::byte*>(copies[i]);
    found = std::min(found, kernels.first_nonfinite(values, range.n));
  }
  if (found == range.n) {
    for (std::size_t i = 0; i < arrays; ++i) std::copy_n(copies[i], range.n, originals[i]);
  }
  if (range.reply != nullptr) std::memcpy(range.reply, range.w, range.n * sizeof(T));
  return found;
}

// How many values of a raw gradient one call of the kernel may update. With a guard these are two
// blocks if it can save so many, since every call has a cost of its own; four would not stay in the
// first-level cache. Copies are of one block.
template <typename T>
std::size_t BlockUpdate::longest_raw(std::span<const Segment<T>> segments) const {
  if (!guards_) return std::numeric_limits<std::size_t>::max();
  if (std::ranges::any_of(segments, &Segment<T>::clamps)) return kBlockValues;
  const bool saves_two = 2 * kBlockValues * (1 + own_states_) <= kSavedValues;
  return saves_two ? 2 * kBlockValues : kBlockValues;
}

template std::size_t BlockUpdate::longest_raw(std::span<const Segment<float>>) const;
template std::size_t BlockUpdate::update(const Segment<float>&, std::size_t,
                                         const UpdateRange<float>&) const;
template std::size_t BlockUpdate::update_corrected(const Segment<float>&, std::size_t,
                                                   UpdateRange<float>,
                                                   const CompensationRange<float>&,
                                                   const CompensationStep<float>&) const;
template std::size_t BlockUpdate::longest_raw(std::span<const Segment<double>>) const;
template std::size_t BlockUpdate::update(const Segment<double>&, std::size_t,
                                         const UpdateRange<double>&) const;
template std::size_t BlockUpdate::update_corrected(const Segment<double>&, std::size_t,
                                                   UpdateRange<double>,
                                                   const CompensationRange<double>&,
                                                   const CompensationStep<double>&) const;

}  // namespace leash
