// Updates stretches of a chunk, and leaves out the blocks in which something would not be finite.
#pragma once

#include <cstddef>
#include <span>

#include "core/kernels/kernels.h"
#include "core/optimizer/segments.h"

namespace leash {

class BlockUpdate {
 public:
  // guards: as in UpdateOptions. own_states: how many buffers the optimizer's options need.
  // REQUIRES: the kernels outlive it.
  BlockUpdate(const Kernels& kernels, bool guards, std::size_t own_states)
      : kernels_(kernels), guards_(guards), own_states_(own_states) {}

  // How many values of a raw gradient one call of update() may take. Of everything else, these are
  // kBlockValues.
  template <typename T>
  std::size_t longest_raw(std::span<const Segment<T>> segments) const;

  // Updates a range, which begins at this place in the chunk, or leaves blocks of it out. Returns
  // the index in it of the first value that would not be finite, or its length.
  template <typename T>
  std::size_t update(const Segment<T>& segment, std::size_t begin,
                     const UpdateRange<T>& range) const;

  // The same with a gradient that is corrected first, for at most kBlockValues values.
  template <typename T>
  std::size_t update_corrected(const Segment<T>& segment, std::size_t begin, UpdateRange<T> range,
                               const CompensationRange<T>& correction,
                               const CompensationStep<T>& step) const;

 private:
  template <typename T>
  std::size_t update_or_restore(const Segment<T>& segment, std::size_t begin,
                                UpdateRange<T> range) const;
  template <typename T>
  std::size_t restore_unless_finite(const UpdateRange<T>& range, std::size_t arrays, std::size_t at,
                                    std::size_t n) const;
  // With a guard: updates copies, which take the place of the range if they are finite. For what
  // comes before and after the optimizer's step, a compensation (null: none) and a clamp.
  template <typename T>
  std::size_t update_copies(const Segment<T>& segment, const UpdateRange<T>& range,
                            const CompensationRange<T>* compensation,
                            const CompensationStep<T>& compensation_step) const;

  const Kernels& kernels_;
  bool guards_;
  std::size_t own_states_;
};

}  // namespace leash
