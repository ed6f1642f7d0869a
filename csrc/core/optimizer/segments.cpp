#include "core/optimizer/segments.h"

#include <tuple>

#include "core/optimizer/optimizer_step.h"

namespace leash {
namespace {

template <typename T>
void set_step(Segment<T>& segment, const SegmentRules& rules, bool state_loaded) {
  const OptimizerOptions& options =
      rules.table ? rules.table->groups[segment.group].optimizer : rules.options;
  const double base = rules.schedule.lr(learning_rate(options), segment.updates);
  const bool is_first = segment.updates == 0 && !state_loaded;
  segment.step = step_of<T>(options, base * rules.lr_factor, segment.updates + 1, is_first);
  segment.buffers = state_names(options).size();
  if (rules.table == nullptr) return;
  const GroupOptions& group = rules.table->groups[segment.group];
  segment.clamps = group.clamps();
  segment.least = static_cast<T>(group.least);
  segment.most = static_cast<T>(group.most);
  segment.limits_norm = group.limits_norm();
  segment.max_norm = group.max_norm;
}

}  // namespace

template <typename T>
void cut_segments(const ChunkValues& chunk, PieceBits absent, const SegmentRules& rules,
                  std::vector<Segment<T>>& segments) {
  const OptionsTable* const table = rules.table;
  segments.clear();
  const bool splits = rules.by_piece || !absent.empty() || (table && table->groups.size() > 1);
  for (const PieceRun& run : chunk.pieces.runs()) {
    for (std::size_t piece = run.first; piece < run.end;) {
      const std::size_t next = splits ? piece + 1 : run.end;
      Segment<T> segment{
          .begin = chunk.pieces.begin(piece),
          .end = chunk.pieces.begin(next),
          .piece = piece,
          .updates = run.updates,
          .group = table ? table->group_of_slot[slot_of(chunk.spec, piece)] : 0,
          .is_absent = contains(absent, piece),
      };
      piece = next;
      const auto is_like = [&](const Segment<T>& other) {
        return other.updates == segment.updates && other.group == segment.group &&
               other.is_absent == segment.is_absent;
      };
      if (!segments.empty() && is_like(segments.back())) {
        if (!rules.by_piece) {
          segments.back().end = segment.end;
          continue;
        }
        const std::size_t begin = segment.begin, end = segment.end, own = segment.piece;
        segment = segments.back();  // with its step
        std::tie(segment.begin, segment.end, segment.piece) = std::tuple(begin, end, own);
      } else if (!segment.is_absent) {
        set_step(segment, rules, chunk.state_loaded);
      }
      segments.push_back(segment);
    }
  }
}

// A thread scales the rows that begin in its range. Their sums have an order of their own, so the
// number of threads changes no bit.
template <typename T>
void limit_rows(const ChunkValues& chunk, std::span<const Segment<T>> segments,
                const Kernels& kernels, ThreadPool& pool) {
  T* const w = chunk.values_as<T>();
  const Pieces& pieces = chunk.pieces;
  const auto limit_norm = kernels.of<T>().limit_norm;
  pool.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
    for (const Segment<T>& segment : segments) {
      if (!segment.limits_norm || segment.end <= first) continue;
      const std::size_t stop = std::min(segment.end, first + count);
      for (std::size_t piece = segment.piece; piece < pieces.count() && pieces.begin(piece) < stop;
           ++piece) {
        const std::size_t begin = pieces.begin(piece), n = row_length_of(chunk.spec, piece);
        const std::size_t earlier = begin < first ? (first - begin + n - 1) / n : 0;
        const std::size_t until = std::min(pieces.begin(piece + 1), stop);
        for (std::size_t at = begin + earlier * n; at < until; at += n) {
          limit_norm(w + at, n, segment.max_norm);
        }
      }
    }
  });
}

template void cut_segments(const ChunkValues&, PieceBits, const SegmentRules&,
                           std::vector<Segment<float>>&);
template void cut_segments(const ChunkValues&, PieceBits, const SegmentRules&,
                           std::vector<Segment<double>>&);
template void limit_rows(const ChunkValues&, std::span<const Segment<float>>, const Kernels&,
                         ThreadPool&);
template void limit_rows(const ChunkValues&, std::span<const Segment<double>>, const Kernels&,
                         ThreadPool&);

}  // namespace leash
