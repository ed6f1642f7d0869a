// Shard::push, and how it lets waiting answers go.

#include <algorithm>
#include <functional>
#include <iterator>
#include <span>
#include <tuple>

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
      free_rest(push, nullptr);
  }
  const StalenessClock& clock = chunk.clock();
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
  note_arrival(arrival);
  if (arrival.dropped) {
    result.outcome = Outcome::kDropped;
  } else {
    check_finite(chunk, push, result);
  }
  const bool counts = result.outcome == Outcome::kApplied;
  const bool gathers = chunk.admission.rule().gather != Gather::kEach;
  const bool updates = counts && !gathers;
  Parked entry{.worker = push.worker,
               .step = push.step,
               .staleness = arrival.staleness,
               .dropped = arrival.dropped,
               .awaits_answer = !result.nonfinite_index || options_.nonfinite == Nonfinite::kSkip,
               .wants_payload = push.wants_payload,
               .contributes = counts && gathers && push.samples > 0,
               .samples = push.samples};
  if (updates) {
    // It is known already whether the answer may go out: if so, one pass writes it too.
    const bool goes_on = chunk.admission.admits(push.worker, chunk.version + 1);
    entry.answer_written = push.wants_payload && goes_on;
    optimizer_.apply(chunk, push.gradient.encoded, entry.answer_written ? &push.answer : nullptr,
                     arrival.staleness, chunk.backup_of(push.worker));
  }
  bool look_at_all = chunk.clock().minimum() != minimum;
  if (entry.awaits_answer) {
    look_at_all |= let_go_on(chunk, push);
  } else if (!chunk.admission.is_waiting(push.worker)) {
    chunk.admission.go_on(push.worker);  // whatever its caller says to it
  }
  park(chunk, entry, push);
  settle(chunk, look_at_all ? Look::kAtAll : Look::kAtNewest, result.replies);
}

void Shard::check_finite(const Chunk& chunk, const Push& push, PushResult& result) {
  if (options_.nonfinite == Nonfinite::kApply) return;
  result.nonfinite_index = optimizer_.find_nonfinite(chunk, push.gradient.encoded);
  if (!result.nonfinite_index) return;
  ++stats_.nonfinite;
  result.outcome = Outcome::kNonfinite;
}

// Lets the worker go on, or makes it wait. Returns whether earlier answers to it go out too.
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
    // Its answer would let the worker go on, so it waits as the first one did.
    chunk.admission.suspend(push.worker);
    const bool look_at_all = let_go_on(chunk, push);
    park(chunk, entry, push);
    settle(chunk, look_at_all ? Look::kAtAll : Look::kAtNewest, replies);
    return;
  }
  if (push.wants_payload) optimizer_.write(chunk, push.answer);
  replies.push_back(reply_to(chunk, entry));
  free_rest(push, nullptr);
}

// A worker that asks again has given up the route of its earlier request.
void Shard::take_over_answer(Parked& entry, const Push& push) {
  forget_answer(entry);
  entry.awaits_answer = true;
  entry.wants_payload = push.wants_payload;
  if (push.wants_payload) entry.answer = push.answer;
  free_rest(push, &entry);
}

void Shard::note_arrival(const Arrival& arrival) {
  ++stats_.applied;
  if (arrival.dropped) {
    ++stats_.dropped;
    return;
  }
  stats_.max_staleness = std::max(stats_.max_staleness, arrival.staleness);
  stats_.staleness_sum += arrival.staleness;
  ++stats_.staleness_count;
}

void Shard::settle(Chunk& chunk, Look look, std::vector<Reply>& replies) {
  const bool round_closed = chunk.admission.close_round();
  released_.clear();
  chunk.admission.release(chunk.version, released_);
  // While nobody else is released, only the newest entry can go out.
  const bool at_all = look == Look::kAtAll || round_closed || !released_.empty();
  const std::size_t newest = std::min<std::size_t>(chunk.parked.size(), 1);
  const std::span<Parked> entries =
      std::span(chunk.parked).last(at_all ? chunk.parked.size() : newest);
  destinations_.clear();
  for (Parked& entry : entries) {
    entry.released = entry.awaits_answer && !chunk.admission.is_waiting(entry.worker);
    const bool to_write = entry.released && entry.wants_payload && !entry.answer_written;
    if (to_write) destinations_.push_back(entry.answer);
  }
  if (!at_all || !apply_means(chunk, round_closed)) {
    for (const Destination& destination : destinations_) optimizer_.write(chunk, destination);
  }
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

// Applies the mean of a round that is closed, or those of the steps that every live worker has
// reached, one after the other; the last one's pass writes the answers too. Returns whether there
// was any.
bool Shard::apply_means(Chunk& chunk, bool round_closed) {
  const bool by_step = chunk.admission.rule().gather == Gather::kStep;
  if (!by_step && !round_closed) return false;
  const auto is_complete = [&](const Parked& entry) {
    return entry.contributes && (!by_step || entry.step <= chunk.clock().minimum());
  };
  // A round is one mean, of whatever steps.
  const auto mean_of = [&](const Contribution& c) { return by_step ? c.step : 0; };
  contributions_.clear();
  for (const Parked& entry : chunk.parked) {
    if (!is_complete(entry)) continue;
    contributions_.push_back({entry.worker, entry.step, entry.samples, entry.gradient.encoded});
  }
  std::ranges::sort(contributions_, {}, [&](const Contribution& c) {
    return std::tuple(mean_of(c), c.worker, c.step);
  });
  for (auto first = contributions_.begin(); first != contributions_.end();) {
    const auto next = std::find_if(first, contributions_.end(), [&](const Contribution& c) {
      return mean_of(c) != mean_of(*first);
    });
    const bool is_last = next == contributions_.end();
    optimizer_.apply_mean(chunk, {first, next},
                          is_last ? destinations_ : std::span<const Destination>());
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
    settle(chunk, Look::kAtAll, replies);
  }
  return replies;
}

// One by one, in order of arrival: there will be no mean that they could be part of.
void Shard::apply_gathered(Chunk& chunk) {
  for (Parked& entry : chunk.parked) {
    if (!entry.contributes) continue;
    optimizer_.apply(chunk, entry.gradient.encoded, nullptr, entry.staleness,
                     chunk.backup_of(entry.worker));
    forget_gradient(entry);
  }
}

Reply Shard::reply_to(Chunk& chunk, const Parked& entry) {
  const std::uint64_t lag = chunk.clock().lag(entry.worker);
  // The answer to a step before the latest one lets nobody go on, and is not what its worker has.
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
  if (entry.contributes) entry.gradient = push.gradient;
  free_rest(push, &entry);
  if (!entry.idle()) chunk.parked.push_back(entry);
}

void Shard::forget_answer(Parked& entry) {
  entry.awaits_answer = false;
  if (entry.answer.owner != entry.gradient.owner) free(entry.answer.owner);
  entry.answer = {};
}

void Shard::forget_gradient(Parked& entry) {
  entry.contributes = false;
  if (entry.gradient.owner != entry.answer.owner) free(entry.gradient.owner);
  entry.gradient = {};
}

// What a push brought, but for what the entry keeps.
void Shard::free_rest(const Push& push, const Parked* entry) {
  const auto is_kept = [&](void* owner) {
    return entry != nullptr && (owner == entry->answer.owner || owner == entry->gradient.owner);
  };
  if (!is_kept(push.gradient.owner)) free(push.gradient.owner);
  const bool is_shared = push.answer.owner == push.gradient.owner;
  if (!is_shared && !is_kept(push.answer.owner)) free(push.answer.owner);
}

void Shard::free(void* owner) {
  if (owner != nullptr) freed_.push_back(owner);
}

}  // namespace leash
