// The values of a chunk, cut into stretches that one update treats alike.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/kernels/kernels.h"
#include "core/optimizer/chunk_values.h"
#include "core/options/optimizer_options.h"
#include "core/options/options_table.h"
#include "core/options/schedule.h"

namespace leash {

// Consecutive values that one update treats alike.
template <typename T>
struct Segment {
  std::size_t begin;
  std::size_t end;
  std::size_t piece;  // the first of its pieces
  std::uint64_t updates;
  std::uint32_t group;
  bool is_absent;
  std::size_t buffers = 0;  // how many of the optimizer's the group's options need
  bool clamps = false;
  T least{}, most{};
  bool limits_norm = false;  // of its rows
  double max_norm = 0.0;
  OptimizerStep<T> step = {};
};

// What the segments of one update depend on, beside the chunk.
struct SegmentRules {
  const OptimizerOptions& options;
  const Schedule& schedule;
  const OptionsTable* table;  // null: all slots have those options
  double lr_factor;           // times which the learning rate is taken
  bool by_piece;              // each piece is a segment of its own
};

// Cuts a chunk for an update of the pieces that are not absent.
template <typename T>
void cut_segments(const ChunkValues& chunk, PieceBits absent, const SegmentRules& rules,
                  std::vector<Segment<T>>& segments);

// Calls use(segment, begin, n) for the parts of the segments that lie in [first, first + count). A
// part is at most `longest` values long, and ends at a multiple of it where it does not end with
// its segment.
template <typename T, typename Use>
void for_each_part(std::span<const Segment<T>> segments, std::size_t first, std::size_t count,
                   std::size_t longest, const Use& use) {
  const std::size_t stop = first + count;
  auto segment = std::ranges::upper_bound(segments, first, {}, &Segment<T>::end);
  for (std::size_t begin = first; begin < stop;) {
    const std::size_t until = std::min({(begin / longest + 1) * longest, segment->end, stop});
    use(*segment, begin, until - begin);
    begin = until;
    if (begin == segment->end) ++segment;
  }
}

// Whether some of the segments limit the norm of their rows. A row is known only when all of its
// blocks are, so answers are then written in a pass of their own.
template <typename T>
bool limits_any_norm(std::span<const Segment<T>> segments) {
  return std::ranges::any_of(segments, &Segment<T>::limits_norm);
}

// Scales down the rows of those segments.
template <typename T>
void limit_rows(const ChunkValues& chunk, std::span<const Segment<T>> segments,
                const Kernels& kernels, ThreadPool& pool);

}  // namespace leash
