// Shard::push, and how it lets waiting answers go.

#include <algorithm>
#include <functional>
#include <iterator>
#include <span>
#include <utility>

#include "core/shard.h"

namespace leash {

PushResult Shard::push(const Push& push) {
  Chunk& chunk = at(push.chunk);
  PushResult result{.outcome = classify(chunk, push)};
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
  if (chunk.clock.contains(push.worker)) result.clock = chunk.clock.clock(push.worker);
  return result;
}

Outcome Shard::classify(const Chunk& chunk, const Push& push) const {
  if (!chunk.clock.contains(push.worker)) return Outcome::kNotLive;
  if (!chunk.initialized) return Outcome::kUninitialized;
  const std::uint64_t clock = chunk.clock.clock(push.worker);
  if (push.step <= clock) return Outcome::kDuplicate;
  return push.step == clock + 1 ? Outcome::kApplied : Outcome::kGap;
}

void Shard::apply(Chunk& chunk, const Push& push, PushResult& result) {
  if (options_.nonfinite != Nonfinite::kApply) {
    result.nonfinite_index = optimizer_.find_nonfinite(chunk, push.gradient.encoded);
  }
  const bool finite = !result.nonfinite_index;
  if (!finite) {
    ++stats_.nonfinite;
    result.outcome = Outcome::kNonfinite;
  }
  Parked entry{.worker = push.worker,
               .step = push.step,
               .staleness = note_staleness(chunk, push.worker),
               .awaits_answer = finite || options_.nonfinite == Nonfinite::kSkip,
               .wants_payload = push.wants_payload};
  const std::uint64_t minimum = chunk.clock.minimum();
  chunk.clock.tick(push.worker);

  if (options_.average) {
    entry.contributes = finite && push.samples > 0;
    entry.samples = push.samples;
  } else if (finite) {
    // The clock already tells whether the answer may go out: if so, one pass writes it too.
    entry.answer_written = push.wants_payload && chunk.clock.admits(push.worker);
    optimizer_.apply(chunk, push.gradient.encoded, entry.answer_written ? &push.answer : nullptr,
                     chunk.workers.at(push.worker));
  }
  park(chunk, entry, push);
  settle(chunk, chunk.clock.minimum() != minimum, result.replies);
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
                     .staleness = chunk.workers.at(push.worker).staleness,
                     .awaits_answer = true,
                     .wants_payload = push.wants_payload};
  if (push.step == chunk.clock.clock(push.worker)) {
    // Its answer would let the worker go on, so it waits as the first one did.
    park(chunk, entry, push);
    settle(chunk, false, replies);
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

std::uint64_t Shard::note_staleness(Chunk& chunk, std::uint32_t worker) {
  WorkerView& view = chunk.workers.at(worker);
  view.staleness = chunk.version - view.pulled_version;
  stats_.max_staleness = std::max(stats_.max_staleness, view.staleness);
  stats_.staleness_sum += view.staleness;
  ++stats_.staleness_count;
  ++stats_.applied;
  return view.staleness;
}

void Shard::settle(Chunk& chunk, bool minimum_moved, std::vector<Reply>& replies) {
  // All that waits waits for the minimum: while it stands still, only the newest entry can go out.
  const std::size_t newest = std::min<std::size_t>(chunk.parked.size(), 1);
  const std::span<Parked> entries =
      std::span(chunk.parked).last(minimum_moved ? chunk.parked.size() : newest);
  destinations_.clear();
  for (Parked& entry : entries) {
    entry.released = entry.awaits_answer && chunk.clock.admits(entry.worker);
    const bool to_write = entry.released && entry.wants_payload && !entry.answer_written;
    if (to_write) destinations_.push_back(entry.answer);
  }
  if (!minimum_moved || !complete_steps(chunk)) {
    for (const Destination& destination : destinations_) optimizer_.write(chunk, destination);
  }
  for (Parked& entry : entries) {
    if (!entry.released) continue;
    replies.push_back(reply_to(chunk, entry));
    forget_answer(entry);
  }
  const auto begin = chunk.parked.end() - std::ssize(entries);
  chunk.parked.erase(std::remove_if(begin, chunk.parked.end(), std::mem_fn(&Parked::idle)),
                     chunk.parked.end());
}

// Applies the steps that every live worker has reached, one after the other; the last one's pass
// writes the answers too. Returns whether there was any.
bool Shard::complete_steps(Chunk& chunk) {
  collect_complete(chunk);
  for (auto step = contributions_.begin(); step != contributions_.end();) {
    const auto next = std::find_if(step, contributions_.end(),
                                   [&](const Contribution& c) { return c.step != step->step; });
    const bool is_last = next == contributions_.end();
    optimizer_.apply_mean(chunk, {step, next},
                          is_last ? destinations_ : std::span<const Destination>());
    step = next;
  }
  for (Parked& entry : chunk.parked) {
    if (entry.step <= chunk.clock.minimum()) forget_gradient(entry);
  }
  return !contributions_.empty();
}

void Shard::collect_complete(Chunk& chunk) {
  contributions_.clear();
  for (const Parked& entry : chunk.parked) {
    if (!entry.contributes || entry.step > chunk.clock.minimum()) continue;
    contributions_.push_back({entry.worker, entry.step, entry.samples, entry.gradient.encoded});
  }
  std::ranges::sort(contributions_, {},
                    [](const Contribution& c) { return std::pair(c.step, c.worker); });
}

Reply Shard::reply_to(Chunk& chunk, const Parked& entry) {
  const std::uint64_t lag = chunk.clock.lag(entry.worker);
  // The answer to a step before the latest one lets nobody go on, and is not what its worker has.
  const bool lets_go_on = entry.step == chunk.clock.clock(entry.worker);
  if (lets_go_on) stats_.max_lag = std::max(stats_.max_lag, lag);
  if (entry.wants_payload && lets_go_on) {
    WorkerView& view = chunk.workers.at(entry.worker);
    view.pulled_version = chunk.version;
    if (!entry.answer_written) optimizer_.back_up(chunk, entry.answer, view);
  }
  return {.chunk = chunk.index,
          .worker = entry.worker,
          .step = entry.step,
          .version = chunk.version,
          .lag = lag,
          .staleness = entry.staleness,
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
