// Shard::push(), set_rule(), and how both release answers that wait.

#include <algorithm>
#include <functional>
#include <iterator>
#include <span>
#include <tuple>
#include <utility>

#include "core/shard/shard.h"

namespace leash {

void Shard::push(const Push& push, PushResult& result) {
  Chunk& chunk = at(push.chunk);
  result.outcome = classify(chunk, push);
  result.replies.clear();
  result.clock = 0;
  result.nonfinite_index.reset();
  switch (result.outcome) {
    case Outcome::kApplied:
      apply(chunk, push, result);
      break;
    case Outcome::kDuplicate:
      ++stats_.duplicates;
      answer_again(chunk, push, result.replies);
      break;
    default:
      if (result.outcome == Outcome::kGap) ++stats_.gaps;
      give_back_rest(push);
  }
  const StepClock& clock = chunk.clock();
  if (clock.contains(push.worker)) result.clock = clock.clock(push.worker);
}

Outcome Shard::classify(const Chunk& chunk, const Push& push) const {
  if (!chunk.clock().contains(push.worker)) return Outcome::kNotLive;
  if (!chunk.initialized) return Outcome::kUninitialized;
  const std::uint64_t clock = chunk.clock().clock(push.worker);
  if (push.step <= clock) return Outcome::kDuplicate;
  return push.step == clock + 1 ? Outcome::kApplied : Outcome::kGap;
}

void Shard::apply(Chunk& chunk, const Push& push, PushResult& result) {
  const std::uint64_t minimum = chunk.clock().minimum();
  const Arrival arrival = chunk.admission.arrive(push.worker, push.now_s, chunk.version);
  count_arrival(arrival);
  const bool gathers = chunk.admission.rule().gather != Gather::kEach;
  const bool is_absent = push.gradient.encoded.data == nullptr || chunk.pieces.are_all(push.absent);
  Parked entry{.worker = push.worker,
               .step = push.step,
               .staleness = arrival.staleness,
               .dropped = arrival.dropped,
               .wants_payload = push.wants_payload,
               .samples = push.samples};
  if (arrival.dropped) {
    result.outcome = Outcome::kDropped;
  } else if (gathers) {
    const bool is_bad = !is_absent && has_nonfinite(chunk, push, result);
    entry.contributes = !is_bad && push.samples > 0;
  } else if (!is_absent) {
    // Whether the answer may go out is known already. If so, the pass that applies the gradient
    // writes the answer too.
    const bool goes_on = chunk.admission.admits(push.worker, chunk.version + 1);
    entry.answer_written = push.wants_payload && goes_on;
    keep_for_snapshot(chunk);
    if (entry.answer_written) begin_writing(push.answer);
    const Applied applied =
        optimizer_.apply(chunk, push.gradient.encoded, push.absent, table_of(push.worker),
                         entry.answer_written ? &push.answer : nullptr, arrival.staleness,
                         chunk.backup_of(push.worker));
    if (entry.answer_written) end_writing(push.answer, chunk.version);
    result.nonfinite_index = applied.nonfinite_index;
  }
  if (result.nonfinite_index) note_nonfinite(result);
  entry.awaits_answer = !result.nonfinite_index || options_.nonfinite == Nonfinite::kSkip;
  bool any_may_go = chunk.clock().minimum() != minimum;
  if (entry.awaits_answer) {
    any_may_go |= let_go_on(chunk, push);
  } else if (!chunk.admission.is_waiting(push.worker) ||
             chunk.admission.admits(push.worker, chunk.version)) {
    // The caller answers this push, and the answers to earlier steps need not wait any longer.
    any_may_go |= chunk.admission.wake(push.worker);
    chunk.admission.go_on(push.worker);
  }
  park(chunk, std::move(entry), push);
  release_answers(chunk, any_may_go ? Candidates::kAll : Candidates::kNewest, result.replies);
}

bool Shard::has_nonfinite(const Chunk& chunk, const Push& push, PushResult& result) const {
  if (options_.nonfinite == Nonfinite::kApply) return false;
  result.nonfinite_index = optimizer_.find_nonfinite(chunk, push.gradient.encoded);
  return result.nonfinite_index.has_value();
}

void Shard::note_nonfinite(PushResult& result) {
  ++stats_.nonfinite;
  result.outcome = Outcome::kNonfinite;
}

// Lets the worker go on, or makes it wait. Returns whether answers to its earlier steps, which wait
// too, go out with this one.
bool Shard::let_go_on(Chunk& chunk, const Push& push) {
  if (!chunk.admission.admits(push.worker, chunk.version)) {
    chunk.admission.park(push.worker);
    return false;
  }
  return chunk.admission.wake(push.worker);
}

void Shard::answer_again(Chunk& chunk, const Push& push, std::vector<Reply>& replies) {
  const auto waiting = std::ranges::find_if(chunk.parked, [&](const Parked& entry) {
    return entry.worker == push.worker && entry.step == push.step && entry.awaits_answer;
  });
  if (waiting != chunk.parked.end()) {
    take_over_answer(*waiting, push);
    return;
  }
  const Parked entry{.worker = push.worker,
                     .step = push.step,
                     .staleness = chunk.admission.staleness(push.worker),
                     .dropped = chunk.admission.was_dropped(push.worker),
                     .awaits_answer = true,
                     .wants_payload = push.wants_payload};
  if (push.step == chunk.clock().clock(push.worker)) {
    // This answer lets the worker go on, so it waits as the answer to the first copy did.
    chunk.admission.suspend(push.worker);
    const bool any_may_go = let_go_on(chunk, push);
    park(chunk, entry, push);
    release_answers(chunk, any_may_go ? Candidates::kAll : Candidates::kNewest, replies);
    return;
  }
  if (push.wants_payload) {
    begin_writing(push.answer);
    optimizer_.write(chunk, push.answer);
    end_writing(push.answer, chunk.version);
  }
  replies.push_back(reply_to(chunk, entry));
  give_back_rest(push);
}

// The newer request replaces the earlier one, whose answer the worker no longer expects.
void Shard::take_over_answer(Parked& entry, const Push& push) {
  forget_answer(entry);
  entry.awaits_answer = true;
  entry.wants_payload = push.wants_payload;
  if (push.wants_payload) entry.answer = push.answer;
  // An owner that the entry keeps for its gradient already was brought once more.
  const bool is_shared = entry.answer.owner == entry.gradient.owner;
  give_back_rest(push, is_shared ? nullptr : entry.answer.owner);
}

void Shard::count_arrival(const Arrival& arrival) {
  ++stats_.applied;
  if (arrival.dropped) {
    ++stats_.dropped;
    return;
  }
  stats_.max_staleness = std::max(stats_.max_staleness, arrival.staleness);
  stats_.staleness_sum += arrival.staleness;
  ++stats_.staleness_count;
}

void Shard::release_answers(Chunk& chunk, Candidates candidates, std::vector<Reply>& replies) {
  const bool round_closed = chunk.admission.close_round();
  released_.clear();
  chunk.admission.release(chunk.version, released_);
  // As long as nobody else is released, only the newest entry can go out.
  const bool any_may_go = candidates == Candidates::kAll || round_closed || !released_.empty();
  const std::size_t newest = std::min<std::size_t>(chunk.parked.size(), 1);
  const std::span<Parked> entries =
      std::span(chunk.parked).last(any_may_go ? chunk.parked.size() : newest);
  destinations_.clear();
  for (Parked& entry : entries) {
    entry.released = entry.awaits_answer && !chunk.admission.is_waiting(entry.worker);
    const bool to_write = entry.released && entry.wants_payload && !entry.answer_written;
    if (to_write) destinations_.push_back(entry.answer);
  }
  for (const Destination& destination : destinations_) begin_writing(destination);
  if (!any_may_go || !apply_means(chunk, round_closed)) {
    for (const Destination& destination : destinations_) optimizer_.write(chunk, destination);
  }
  for (const Destination& destination : destinations_) end_writing(destination, chunk.version);
  for (Parked& entry : entries) {
    if (!entry.released) continue;
    chunk.admission.go_on(entry.worker);
    replies.push_back(reply_to(chunk, entry));
    forget_answer(entry);
  }
  const auto begin = chunk.parked.end() - std::ssize(entries);
  chunk.parked.erase(std::remove_if(begin, chunk.parked.end(), std::mem_fn(&Parked::idle)),
                     chunk.parked.end());
}

// Applies the mean of the round that was closed, or else the mean of each step that every live
// worker has reached, one after the other. The pass of the last mean writes the answers, too.
// Returns whether there was any mean.
bool Shard::apply_means(Chunk& chunk, bool round_closed) {
  const bool by_step = chunk.admission.rule().gather == Gather::kStep;
  if (!by_step && !round_closed) return false;
  const auto is_complete = [&](const Parked& entry) {
    return entry.contributes && (!by_step || entry.step <= chunk.clock().minimum());
  };
  // All gradients of a round are one mean, whatever their steps.
  const auto mean_of = [&](const Contribution& c) { return by_step ? c.step : 0; };
  contributions_.clear();
  for (const Parked& entry : chunk.parked) {
    if (!is_complete(entry)) continue;
    contributions_.push_back(
        {entry.worker, entry.step, entry.samples, entry.gradient.encoded, entry.absent});
  }
  std::ranges::sort(contributions_, {}, [&](const Contribution& c) {
    return std::tuple(mean_of(c), c.worker, c.step);
  });
  if (!contributions_.empty()) keep_for_snapshot(chunk);
  for (auto first = contributions_.begin(); first != contributions_.end();) {
    const auto next = std::find_if(first, contributions_.end(), [&](const Contribution& c) {
      return mean_of(c) != mean_of(*first);
    });
    const bool is_last = next == contributions_.end();
    const Applied applied =
        optimizer_.apply_mean(chunk, {first, next}, table_of(first->worker),
                              is_last ? destinations_ : std::span<const Destination>());
    if (applied.nonfinite_index) {
      overflows_.push_back({chunk.index, first->step, *applied.nonfinite_index});
    }
    first = next;
  }
  for (Parked& entry : chunk.parked) {
    if (is_complete(entry)) forget_gradient(entry);
  }
  return !contributions_.empty();
}

std::vector<Reply> Shard::set_rule(const Rule& rule) {
  ShardOptions options = options_;
  options.rule = rule;
  validate(options);
  options_.rule = rule;
  std::vector<Reply> replies;
  for (Chunk& chunk : chunks_) {
    if (rule.gather == Gather::kEach) apply_gathered(chunk);
    chunk.admission.set_rule(rule);
    release_answers(chunk, Candidates::kAll, replies);
  }
  return replies;
}

std::vector<Reply> Shard::give_up_rounds() {
  std::vector<Reply> replies;
  if (options_.rule.gather != Gather::kRound) return replies;
  std::unordered_map<std::uint32_t, std::uint64_t> clocks;  // of the step that each worker is in
  for (const Chunk& chunk : chunks_) {
    for (const std::uint32_t worker : chunk.clock().workers()) {
      std::uint64_t& clock = clocks[worker];
      clock = std::max(clock, chunk.clock().clock(worker));
    }
  }
  for (Chunk& chunk : chunks_) {
    for (Parked& entry : chunk.parked) {
      if (!entry.contributes) continue;
      forget_gradient(entry);
      ++stats_.dropped;
    }
    chunk.admission.give_up_round(clocks);
    for (Parked& entry : chunk.parked) {
      const bool is_newest = entry.step == chunk.clock().clock(entry.worker);
      entry.dropped |= is_newest && chunk.admission.was_dropped(entry.worker);
    }
    release_answers(chunk, Candidates::kAll, replies);
  }
  return replies;
}

// Applies the gradients that were kept for a mean one by one, in order of arrival, for a new rule
// that takes no means.
void Shard::apply_gathered(Chunk& chunk) {
  for (Parked& entry : chunk.parked) {
    if (!entry.contributes) continue;
    if (entry.gradient.encoded.data != nullptr) {
      keep_for_snapshot(chunk);
      const Applied applied =
          optimizer_.apply(chunk, entry.gradient.encoded, entry.absent, table_of(entry.worker),
                           nullptr, entry.staleness, chunk.backup_of(entry.worker));
      if (applied.nonfinite_index) {
        overflows_.push_back({chunk.index, entry.step, *applied.nonfinite_index});
      }
    }
    forget_gradient(entry);
  }
}

Reply Shard::reply_to(Chunk& chunk, const Parked& entry) {
  const std::uint64_t lag = chunk.clock().lag(entry.worker);
  // The answer to an earlier step than the latest lets nobody go on: its worker waits for the
  // answer to the latest.
  const bool lets_go_on = entry.step == chunk.clock().clock(entry.worker);
  if (lets_go_on) stats_.max_lag = std::max(stats_.max_lag, lag);
  if (entry.wants_payload && lets_go_on) {
    chunk.admission.note_pull(entry.worker, chunk.version);
    if (!entry.answer_written) {
      optimizer_.back_up(chunk, entry.answer, chunk.backup_of(entry.worker));
    }
  }
  return {.chunk = chunk.index,
          .worker = entry.worker,
          .step = entry.step,
          .version = chunk.version,
          .lag = lag,
          .staleness = entry.staleness,
          .dropped = entry.dropped,
          .has_payload = entry.wants_payload};
}

void Shard::park(Chunk& chunk, Parked entry, const Push& push) {
  if (entry.awaits_answer && entry.wants_payload) entry.answer = push.answer;
  if (entry.contributes) {
    entry.gradient = push.gradient;
    keep_bits(push.absent, entry.absent);
  }
  give_back_rest(push, entry.answer.owner, entry.gradient.owner);
  if (!entry.idle()) chunk.parked.push_back(std::move(entry));
}

// Copies the bits into memory that an earlier entry had, if there is some.
void Shard::keep_bits(PieceBits bits, std::vector<std::uint8_t>& kept) {
  if (bits.empty()) return;
  if (!spare_bits_.empty()) {
    kept.swap(spare_bits_.back());
    spare_bits_.pop_back();
  }
  kept.assign(bits.begin(), bits.end());
}

void Shard::forget_answer(Parked& entry) {
  entry.awaits_answer = false;
  if (entry.answer.owner != entry.gradient.owner) give_back(entry.answer.owner);
  entry.answer = {};
}

void Shard::forget_gradient(Parked& entry) {
  entry.contributes = false;
  if (entry.gradient.owner != entry.answer.owner) give_back(entry.gradient.owner);
  entry.gradient = {};
  if (entry.absent.empty()) return;
  spare_bits_.push_back(std::exchange(entry.absent, {}));
}

// Gives back the owners of a push, but for those that an entry keeps for its answer and gradient.
void Shard::give_back_rest(const Push& push, const void* answer, const void* gradient) {
  const auto is_kept = [&](const void* owner) { return owner == answer || owner == gradient; };
  if (!is_kept(push.gradient.owner)) give_back(push.gradient.owner);
  const bool is_shared = push.answer.owner == push.gradient.owner;
  if (!is_shared && !is_kept(push.answer.owner)) give_back(push.answer.owner);
}

void Shard::give_back(void* owner) {
  if (owner != nullptr) freed_.push_back(owner);
}

}  // namespace leash
