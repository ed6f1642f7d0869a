#include "core/optimizer/optimizer.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <variant>

#include "core/base/slab.h"
#include "core/optimizer/answers.h"
#include "core/optimizer/optimizer_step.h"

namespace leash {
namespace {

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

// The kernel's arguments for the n values of the chunk from `begin` on. gradient and reply lead to
// the first of these values.
template <typename T>
UpdateRange<T> update_range(const ChunkValues& chunk, const Segment<T>& segment, std::size_t begin,
                            std::size_t n, const std::byte* gradient, std::byte* reply) {
  UpdateRange<T> range{
      .w = chunk.values_as<T>() + begin, .state = {}, .gradient = gradient, .reply = reply, .n = n};
  for (std::size_t i = 0; i < segment.buffers; ++i) range.state[i] = chunk.state_as<T>(i) + begin;
  return range;
}

}  // namespace

Optimizer::Optimizer(const OptimizerOptions& options, const UpdateOptions& update_options,
                     const Kernels& kernels, ThreadPool& pool)
    : options_(options),
      update_options_(update_options),
      kernels_(kernels),
      pool_(pool),
      blocks_(kernels, update_options.guards, leash::state_names(options).size()) {
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
std::vector<Segment<float>>& Optimizer::segments() {
  return segments_f32_;
}
template <>
std::vector<Segment<double>>& Optimizer::segments() {
  return segments_f64_;
}

template <typename T>
std::span<const Segment<T>> Optimizer::begin_update(ChunkValues& chunk, PieceBits absent,
                                                    const OptionsTable* table, double lr_factor,
                                                    bool by_piece) {
  start_state(chunk);
  const SegmentRules rules{options_, update_options_.schedule, table, lr_factor, by_piece};
  std::vector<Segment<T>>& segments = this->segments<T>();
  cut_segments(chunk, absent, rules, segments);
  chunk.pieces.count_update(absent);
  ++chunk.version;
  return segments;
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
CompensationRange<T> Optimizer::compensation_range(const ChunkValues& chunk, std::size_t begin,
                                                   std::size_t n, const std::byte* gradient,
                                                   T* corrected, const Backup& backup) const {
  T* mean_square = nullptr;
  if (update_options_.compensation.kind == CompensationKind::kAdaptive) {
    mean_square = chunk.state_as<T>(state_names_.size() - 1) + begin;  // the last of the buffers
  }
  // The parameters that a worker had before its first answer are not known. With the present ones
  // in their place the correction is 0.
  const T* const had =
      backup.filled ? reinterpret_cast<const T*>(backup.values) : chunk.values_as<T>();
  return {.w = chunk.values_as<T>() + begin,
          .backup = had + begin,
          .mean_square = mean_square,
          .gradient = gradient,
          .corrected = corrected,
          .n = n};
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
  const bool limits = limits_any_norm(segments);
  const Answers answers(limits ? std::span<const Destination>() : replies);
  const bool compensates = update_options_.compensation.is_on() && backup != nullptr;
  const auto compensation =
      compensation_step_of<T>(update_options_.compensation, maximizes(options_));
  const bool is_raw = gradient.codec == Codec::kRaw && answers.are_direct() && !compensates;
  const std::size_t longest = is_raw ? blocks_.longest_raw(segments) : kBlockValues;
  LowestIndex lowest(chunk.spec.values);

  const auto update_part = [&](const Segment<T>& segment, std::size_t begin, std::size_t n) {
    alignas(kCacheLine) T decoded[kBlockValues];
    const std::byte* const values = read_values(gradient, begin, n, decoded, kernels_);
    const UpdateRange<T> range =
        update_range(chunk, segment, begin, n, values, answers.direct<T>(begin));
    if (!compensates) return blocks_.update(segment, begin, range);
    const auto correction = compensation_range(chunk, begin, n, values, decoded, *backup);
    return blocks_.update_corrected(segment, begin, range, correction, compensation);
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
    limit_rows(chunk, segments, kernels_, pool_);
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
  const bool limits = limits_any_norm(segments);
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
    return blocks_.update(segment, begin,
                          update_range(chunk, segment, begin, n, mean, answers.direct<T>(begin)));
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
    limit_rows(chunk, segments, kernels_, pool_);
    write_in_parts(chunk, replies);
  }
  return lowest.get();
}

}  // namespace leash
