#include "core/optimizer/optimizer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <variant>

#include "core/base/slab.h"
#include "core/optimizer/optimizer_step.h"

namespace leash {
namespace {

// What a guard can save: a block of the parameters and of each buffer, or more blocks of fewer.
constexpr std::size_t kSavedValues = (1 + kMaxStates) * kBlockValues;

double total_samples(std::span<const Contribution> contributions) {
  double total = 0.0;
  for (const Contribution& c : contributions) total += static_cast<double>(c.samples);
  return total;
}

// The lowest of the indices that several threads note.
class LowestIndex {
 public:
  explicit LowestIndex(std::size_t none) : none_(none), lowest_(none) {}

  void note(std::size_t index) {
    std::size_t old = lowest_;
    while (index < old && !lowest_.compare_exchange_weak(old, index)) {
    }
  }
  std::optional<std::size_t> get() const {
    return lowest_ == none_ ? std::nullopt : std::optional(lowest_.load());
  }

 private:
  std::size_t none_;
  std::atomic<std::size_t> lowest_;
};

// Calls use(segment, begin, n) for the parts of the segments that lie in [first, first + count). A
// part is at most `longest` values long, and ends at a multiple of it where it does not end with
// its segment.
template <typename Segments, typename Use>
void for_each_part(const Segments& segments, std::size_t first, std::size_t count,
                   std::size_t longest, const Use& use) {
  const std::size_t stop = first + count;
  auto segment = std::ranges::upper_bound(segments, first, {}, [](const auto& s) { return s.end; });
  for (std::size_t begin = first; begin < stop;) {
    const std::size_t until = std::min({(begin / longest + 1) * longest, segment->end, stop});
    use(*segment, begin, until - begin);
    begin = until;
    if (begin == segment->end) ++segment;
  }
}

template <typename T>
void clamp(T* values, std::size_t n, T least, T most) {
  // A NaN stays one, as in torch.
  for (std::size_t i = 0; i < n; ++i) {
    const T raised = values[i] < least ? least : values[i];
    values[i] = raised > most ? most : raised;
  }
}

// The answers that a pass over a chunk writes. The kernel itself writes the first raw one, value by
// value; the others are written after each block, which is in the first-level cache then.
class Answers {
 public:
  explicit Answers(std::span<const Destination> all) : all_(all) {
    const auto found = std::ranges::find(all, Codec::kRaw, &Destination::codec);
    if (found != all.end()) direct_ = &*found;
  }

  bool empty() const { return all_.empty(); }
  const Destination& front() const { return all_.front(); }
  // Whether the kernel writes all of them.
  bool are_direct() const { return all_.size() == (direct_ == nullptr ? 0 : 1); }

  // Where the kernel is to write the values from `begin` on; null: nowhere.
  template <typename T>
  std::byte* direct(std::size_t begin) const {
    return direct_ == nullptr ? nullptr : direct_->data + begin * sizeof(T);
  }
  // Writes n values to those that the kernel has not written; if none was updated, to all.
  void write_rest(const ChunkValues& chunk, std::size_t begin, std::size_t n, bool is_updated,
                  const Kernels& kernels) const {
    for (const Destination& to : all_) {
      if (!is_updated || &to != direct_) write_values(chunk, to, begin, n, kernels);
    }
  }

 private:
  std::span<const Destination> all_;
  const Destination* direct_ = nullptr;
};

}  // namespace

Optimizer::Optimizer(const OptimizerOptions& options, const UpdateOptions& update_options,
                     const Kernels& kernels, ThreadPool& pool)
    : options_(options),
      update_options_(update_options),
      own_states_(leash::state_names(options).size()),
      kernels_(kernels),
      pool_(pool) {
  validate(options_);
  validate(update_options_.schedule);
  validate(update_options_.staleness_rate);
  validate(update_options_.compensation);
  const auto own = leash::state_names(options_);
  state_names_.assign(own.begin(), own.end());
  if (!update_options_.compensation.is_on()) return;
  if (!std::holds_alternative<SgdOptions>(options_)) {
    throw std::invalid_argument("compensation: expected 'none', since it corrects SGD only");
  }
  if (update_options_.compensation.kind == CompensationKind::kAdaptive) {
    state_names_.push_back("dc_mean_square");
  }
}

void Optimizer::set_lr(double lr) {
  OptimizerOptions changed = options_;
  set_learning_rate(changed, lr);
  validate(changed);
  options_ = changed;
}

void Optimizer::start_state(ChunkValues& chunk) const {
  if (chunk.state_started || state_names().empty()) return;
  chunk.state_started = true;
  for (std::size_t i = 0; i < state_names().size(); ++i) write_first_state(chunk, chunk.states[i]);
}

void Optimizer::write_first_state(const ChunkValues& chunk, std::byte* out) const {
  const auto* adagrad = std::get_if<AdagradOptions>(&options_);
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    const T first = adagrad ? static_cast<T>(adagrad->initial_accumulator_value) : T{0};
    for (std::size_t i = 0; i < chunk.spec.values; ++i) {
      std::memcpy(out + i * sizeof(T), &first, sizeof(T));
    }
  });
}

template <>
std::vector<Optimizer::Segment<float>>& Optimizer::segments() {
  return segments_f32_;
}
template <>
std::vector<Optimizer::Segment<double>>& Optimizer::segments() {
  return segments_f64_;
}

template <typename T>
std::span<const Optimizer::Segment<T>> Optimizer::begin_update(ChunkValues& chunk, PieceBits absent,
                                                               const OptionsTable* table,
                                                               double lr_factor, bool by_piece) {
  start_state(chunk);
  std::vector<Segment<T>>& segments = this->segments<T>();
  segments.clear();
  const bool splits = by_piece || !absent.empty() || (table && table->groups.size() > 1);
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
        if (!by_piece) {
          segments.back().end = segment.end;
          continue;
        }
        const std::size_t begin = segment.begin, end = segment.end, own = segment.piece;
        segment = segments.back();  // with its step
        std::tie(segment.begin, segment.end, segment.piece) = std::tuple(begin, end, own);
      } else if (!segment.is_absent) {
        set_step(segment, table, lr_factor, chunk.state_loaded);
      }
      segments.push_back(segment);
    }
  }
  chunk.pieces.count_update(absent);
  ++chunk.version;
  return segments;
}

template <typename T>
void Optimizer::set_step(Segment<T>& segment, const OptionsTable* table, double lr_factor,
                         bool state_loaded) const {
  const OptimizerOptions& options = table ? table->groups[segment.group].optimizer : options_;
  const double base = update_options_.schedule.lr(learning_rate(options), segment.updates);
  const bool is_first = segment.updates == 0 && !state_loaded;
  segment.step = step_of<T>(options, base * lr_factor, segment.updates + 1, is_first);
  segment.buffers = leash::state_names(options).size();
  if (table == nullptr) return;
  const GroupOptions& group = table->groups[segment.group];
  segment.clamps = group.clamps();
  segment.least = static_cast<T>(group.least);
  segment.most = static_cast<T>(group.most);
  segment.limits_norm = group.limits_norm();
  segment.max_norm = group.max_norm;
}

template <typename T>
bool Optimizer::limits_any_norm(std::span<const Segment<T>> segments, const OptionsTable* table) {
  return table != nullptr && std::ranges::any_of(table->groups, &GroupOptions::limits_norm) &&
         std::ranges::any_of(segments, &Segment<T>::limits_norm);
}

// A thread scales the rows that begin in its range. Their sums have an order of their own, so the
// number of threads changes no bit.
template <typename T>
void Optimizer::limit_rows(const ChunkValues& chunk, std::span<const Segment<T>> segments) {
  T* const w = chunk.values_as<T>();
  const Pieces& pieces = chunk.pieces;
  const auto limit_norm = kernels_.of<T>().limit_norm;
  pool_.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
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

PieceBits Optimizer::absent_in_all(const ChunkValues& chunk,
                                   std::span<const Contribution> contributions) {
  const auto names_some = [](const Contribution& c) { return !c.absent.empty(); };
  if (!std::ranges::all_of(contributions, names_some)) return {};
  absent_.assign((chunk.pieces.count() + 7) / 8, 0);
  bool is_any = false;
  for (std::size_t piece = 0; piece < chunk.pieces.count(); ++piece) {
    const auto is_absent = [&](const Contribution& c) { return contains(c.absent, piece); };
    if (!std::ranges::all_of(contributions, is_absent)) continue;
    absent_[piece / 8] = static_cast<std::uint8_t>(absent_[piece / 8] | (1U << (piece % 8)));
    is_any = true;
  }
  return is_any ? PieceBits(absent_) : PieceBits();
}

std::optional<std::size_t> Optimizer::find_nonfinite(const ChunkValues& chunk,
                                                     const Encoded& gradient) const {
  if (gradient.codec != Codec::kRaw) return leash::find_nonfinite(gradient);
  LowestIndex lowest(chunk.spec.values);
  const bool is_buffer = chunk.spec.kind == ChunkKind::kBuffer;
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    const auto is_new = [&](std::size_t i) {
      return std::memcmp(chunk.values + i * sizeof(T), gradient.data + i * sizeof(T), sizeof(T)) !=
             0;
    };
    pool_.split(chunk.spec.values, [&](std::size_t begin, std::size_t count) {
      const std::size_t stop = begin + count;
      while (begin < stop) {
        const std::byte* const values = gradient.data + begin * sizeof(T);
        begin += kernels_.of<T>().first_nonfinite(values, stop - begin);
        if (begin == stop) return;
        if (!is_buffer || is_new(begin)) return lowest.note(begin);
        ++begin;
      }
    });
  });
  return lowest.get();
}

Applied Optimizer::apply(ChunkValues& chunk, const Encoded& gradient, PieceBits absent,
                         const OptionsTable* table, const Destination* reply,
                         std::uint64_t staleness, Backup* backup) {
  if (chunk.spec.kind == ChunkKind::kBuffer) {
    const Applied applied = replace_values(chunk, gradient);
    const bool is_written = applied.updated && reply != nullptr && reply->data == gradient.data;
    if (reply != nullptr && !is_written) write(chunk, *reply);
    return applied;
  }
  const double lr_factor = update_options_.staleness_rate.factor(staleness);
  const auto replies = reply == nullptr ? std::span<const Destination>() : std::span(reply, 1);
  return with_dtype(chunk.spec.dtype, [&]<typename T>() {
    return Applied{true, update<T>(chunk, gradient, absent, table, lr_factor, replies, backup)};
  });
}

Applied Optimizer::apply_mean(ChunkValues& chunk, std::span<const Contribution> contributions,
                              const OptionsTable* table, std::span<const Destination> replies) {
  Applied applied;
  if (chunk.spec.kind == ChunkKind::kBuffer) {
    applied = replace_values(chunk, contributions.back().gradient);
  } else if (const PieceBits absent = absent_in_all(chunk, contributions);
             !chunk.pieces.are_all(absent)) {
    return with_dtype(chunk.spec.dtype, [&]<typename T>() {
      // A mean of one is that gradient, bit by bit: its weight is 1, and so is the factor of the
      // learning rate.
      if (contributions.size() == 1) {
        const Encoded& gradient = contributions.front().gradient;
        return Applied{true, update<T>(chunk, gradient, absent, table, 1.0, replies, nullptr)};
      }
      return Applied{true, update_by_mean<T>(chunk, contributions, absent, table, replies)};
    });
  }
  for (const Destination& reply : replies) write(chunk, reply);
  return applied;
}

Applied Optimizer::replace_values(ChunkValues& chunk, const Encoded& values) {
  if (values.data == nullptr) return {};
  Encoded taken = values;
  if (update_options_.guards) {
    if (values.is_shared) {  // what is looked at is what is taken
      copied_.assign(values.data, values.data + values.nbytes);
      taken.data = copied_.data();
    }
    if (const auto found = find_nonfinite(chunk, taken)) return {false, found};
  }
  ++chunk.version;
  std::memcpy(chunk.values, taken.data, chunk.spec.nbytes());
  return {true, {}};
}

void Optimizer::back_up(const ChunkValues& chunk, const Destination& written,
                        Backup* backup) const {
  if (backup == nullptr) return;
  backup->filled = true;
  pool_.split(chunk.spec.values, [&](std::size_t begin, std::size_t n) {
    read_back(chunk, written, begin, n, backup->values, kernels_);
  });
}

void Optimizer::write_in_parts(const ChunkValues& chunk,
                               std::span<const Destination> destinations) const {
  pool_.split(chunk.spec.values, [&](std::size_t begin, std::size_t n) {
    for (const Destination& to : destinations) write_values(chunk, to, begin, n, kernels_);
  });
}

template <typename T>
UpdateRange<T> Optimizer::update_range(const ChunkValues& chunk, const Segment<T>& segment,
                                       std::size_t begin, std::size_t n, const std::byte* gradient,
                                       std::byte* reply) const {
  UpdateRange<T> range{
      .w = chunk.values_as<T>() + begin, .state = {}, .gradient = gradient, .reply = reply, .n = n};
  for (std::size_t i = 0; i < segment.buffers; ++i) range.state[i] = chunk.state_as<T>(i) + begin;
  return range;
}

template <typename T>
CompensationRange<T> Optimizer::compensation_range(const ChunkValues& chunk, std::size_t begin,
                                                   std::size_t n, const std::byte* gradient,
                                                   T* corrected, const Backup& backup) const {
  const bool is_adaptive = update_options_.compensation.kind == CompensationKind::kAdaptive;
  // The parameters that a worker had before its first answer are not known. With the present ones
  // in their place the correction is 0.
  const T* const had =
      backup.filled ? reinterpret_cast<const T*>(backup.values) : chunk.values_as<T>();
  return {.w = chunk.values_as<T>() + begin,
          .backup = had + begin,
          .mean_square = is_adaptive ? chunk.state_as<T>(own_states_) + begin : nullptr,
          .gradient = gradient,
          .corrected = corrected,
          .n = n};
}

template <typename T>
std::size_t Optimizer::update_block(const Segment<T>& segment, std::size_t begin,
                                    const UpdateRange<T>& range) const {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  if (update_options_.guards) {
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
std::size_t Optimizer::update_or_restore(const Segment<T>& segment, std::size_t begin,
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
std::size_t Optimizer::restore_unless_finite(const UpdateRange<T>& range, std::size_t arrays,
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
[[gnu::noinline]] std::size_t Optimizer::update_copies(
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
std::size_t Optimizer::longest_raw(std::span<const Segment<T>> segments) const {
  if (!update_options_.guards) return std::numeric_limits<std::size_t>::max();
  if (std::ranges::any_of(segments, &Segment<T>::clamps)) return kBlockValues;
  const bool saves_two = 2 * kBlockValues * (1 + own_states_) <= kSavedValues;
  return saves_two ? 2 * kBlockValues : kBlockValues;
}

// A raw gradient with one raw reply or none, and no compensation, takes as few calls of the kernel
// for each segment in each thread as a guard allows. Everything else goes block by block. What was
// decoded or corrected, and what is still to be encoded, copied or backed up, then stays in the
// first-level cache, so that the update remains one pass over memory.
template <typename T>
std::optional<std::size_t> Optimizer::update(ChunkValues& chunk, const Encoded& gradient,
                                             PieceBits absent, const OptionsTable* table,
                                             double lr_factor, std::span<const Destination> replies,
                                             Backup* backup) {
  const auto segments = begin_update<T>(chunk, absent, table, lr_factor, false);
  const bool limits = limits_any_norm(segments, table);
  const Answers answers(limits ? std::span<const Destination>() : replies);
  const bool compensates = update_options_.compensation.is_on() && backup != nullptr;
  const auto compensation =
      compensation_step_of<T>(update_options_.compensation, maximizes(options_));
  const bool is_raw = gradient.codec == Codec::kRaw && answers.are_direct() && !compensates;
  const std::size_t longest = is_raw ? longest_raw<T>(segments) : kBlockValues;
  LowestIndex lowest(chunk.spec.values);

  const auto update_part = [&](const Segment<T>& segment, std::size_t begin, std::size_t n) {
    alignas(kCacheLine) T decoded[kBlockValues];
    const std::byte* const values = read_values(gradient, begin, n, decoded, kernels_);
    UpdateRange<T> range =
        update_range<T>(chunk, segment, begin, n, values, answers.direct<T>(begin));
    if (!compensates) return update_block(segment, begin, range);
    const auto correction = compensation_range(chunk, begin, n, values, decoded, *backup);
    if (update_options_.guards) return update_copies(segment, range, &correction, compensation);
    kernels_.of<T>().compensate(correction, compensation);
    range.gradient = reinterpret_cast<const std::byte*>(decoded);
    return update_block(segment, begin, range);
  };
  pool_.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
    for_each_part(segments, first, count, longest, [&](const auto& segment, auto begin, auto n) {
      if (!segment.is_absent) {
        const std::size_t found = update_part(segment, begin, n);
        if (found < n) lowest.note(begin + found);
      }
      answers.write_rest(chunk, begin, n, !segment.is_absent, kernels_);
      if (compensates && !answers.empty()) {
        read_back(chunk, answers.front(), begin, n, backup->values, kernels_);
      }
    });
  });
  if (compensates && !answers.empty()) backup->filled = true;
  if (limits) {
    limit_rows(chunk, segments);
    write_in_parts(chunk, replies);
    if (!replies.empty() && compensates) back_up(chunk, replies.front(), backup);
  }
  return lowest.get();
}

// Goes block by block: the sum stays in the first-level cache, and a reply is written to the memory
// of a gradient while that is in the cache too. All gradients of a block have been read by then.
template <typename T>
std::optional<std::size_t> Optimizer::update_by_mean(ChunkValues& chunk,
                                                     std::span<const Contribution> contributions,
                                                     PieceBits absent, const OptionsTable* table,
                                                     std::span<const Destination> replies) {
  const KernelsFor<T>& kernels = kernels_.of<T>();
  const bool is_sum = sums();
  const double total = total_samples(contributions);
  const bool scales = update_options_.scale_lr && !is_sum;
  const bool by_piece =
      std::ranges::any_of(contributions, [](const auto& c) { return !c.absent.empty(); });
  const double lr_factor = scales ? static_cast<double>(contributions.size()) : 1.0;
  const auto segments = begin_update<T>(chunk, absent, table, lr_factor, by_piece);
  const bool limits = limits_any_norm(segments, table);
  const Answers answers(limits ? std::span<const Destination>() : replies);
  LowestIndex lowest(chunk.spec.values);

  const auto update_part = [&](const Segment<T>& segment, std::size_t begin, std::size_t n) {
    alignas(kCacheLine) T sum[kBlockValues];
    alignas(kCacheLine) T decoded[kBlockValues];
    bool is_first = true;
    for (const Contribution& c : contributions) {
      if (by_piece && contains(c.absent, segment.piece)) continue;
      const T weight = is_sum ? T{1} : static_cast<T>(static_cast<double>(c.samples) / total);
      const std::byte* const values = read_values(c.gradient, begin, n, decoded, kernels_);
      kernels.accumulate(sum, values, n, weight, is_first);
      is_first = false;
    }
    const auto* const mean = reinterpret_cast<const std::byte*>(sum);
    return update_block(segment, begin,
                        update_range<T>(chunk, segment, begin, n, mean, answers.direct<T>(begin)));
  };
  pool_.split(chunk.spec.values, [&](std::size_t first, std::size_t count) {
    for_each_part(segments, first, count, kBlockValues,
                  [&](const auto& segment, auto begin, auto n) {
                    if (!segment.is_absent) {
                      const std::size_t found = update_part(segment, begin, n);
                      if (found < n) lowest.note(begin + found);
                    }
                    answers.write_rest(chunk, begin, n, !segment.is_absent, kernels_);
                  });
  });
  if (limits) {
    limit_rows(chunk, segments);
    write_in_parts(chunk, replies);
  }
  return lowest.get();
}

}  // namespace leash
