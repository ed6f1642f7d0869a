// Which replies may go out: admits() decides for the worker that pushes, release() for those that
// wait. A bound in clocks is compared in clock.cpp.

#include "core/admission/admission.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace leash {

Admission::Admission(const Rule& rule) : rule_(rule), clock_(std::nullopt) {
  validate(rule_);
  apply_bound();
}

// The clock checks a bound that counts clocks; versions_allow() checks one that counts versions.
void Admission::apply_bound() {
  clock_.set_bound(rule_.unit == BoundUnit::kClocks ? rule_.bound : std::nullopt);
}

void Admission::set_rule(const Rule& rule) {
  validate(rule);
  const Gather before = std::exchange(rule_, rule).gather;
  apply_bound();
  if (rule_.gather != Gather::kRound || before == Gather::kEach) {
    ++round_;
    arrived_ = 0;
  }
  computing_.clear();
  for (auto& [worker, state] : workers_) {
    state.granted_clock = 0;
    state.computing = false;
    if (!state.waiting) {
      start_computing(state);
    } else if (before == Gather::kStep && rule_.gather == Gather::kRound) {
      state.round = round_;
      ++arrived_;
    }
  }
  round_closed_ = true;  // whoever does not wait for the new round is released
}

void Admission::join(std::uint32_t worker, std::uint64_t clock, std::uint64_t version) {
  clock_.join(worker, clock);
  WorkerState state{.pulled_version = version};
  start_computing(state);
  workers_.insert_or_assign(worker, state);
}

void Admission::leave(std::uint32_t worker) {
  clock_.leave(worker);
  const auto found = workers_.find(worker);
  stop_computing(found->second);
  if (is_in_round(found->second)) --arrived_;
  workers_.erase(found);
}

void Admission::skip_to(std::uint64_t step) {
  for (const std::uint32_t worker : clock_.workers()) {
    while (clock_.clock(worker) < step) clock_.tick(worker);
  }
}

Arrival Admission::arrive(std::uint32_t worker, double now_s, std::uint64_t version) {
  const std::uint64_t clock = clock_.tick(worker);
  WorkerState& state = workers_.at(worker);
  state.staleness = version - state.pulled_version;
  state.dropped = rule_.gather == Gather::kRound
                      ? state.staleness > 0 || clock <= state.left_out_clock
                      : rule_.staleness_limit && state.staleness > *rule_.staleness_limit;
  state.pushed_s = {now_s, state.pushed_s[0]};
  ++state.pushes;
  stop_computing(state);
  if (rule_.gather == Gather::kRound && !state.dropped && !is_in_round(state)) {
    state.round = round_;
    ++arrived_;
  }
  if (rule_.bound_max) grant(worker, state);
  if (state.waiting) park(worker);  // it waits on, from now on for this step's answer
  return {.clock = clock, .staleness = state.staleness, .dropped = state.dropped};
}

void Admission::grant(std::uint32_t worker, WorkerState& state) {
  const std::uint64_t clock = clock_.clock(worker);
  const std::uint64_t lag = clock_.lag(worker);
  const bool asks = lag > *rule_.bound && lag <= *rule_.bound_max && clock > state.granted_clock;
  if (!asks || !clock_.is_fastest(worker)) return;
  const WorkerState& slowest = workers_.at(clock_.slowest());
  const std::uint64_t extra = extra_steps(state, slowest, *rule_.bound_max - lag + 1);
  if (extra > 0) state.granted_clock = clock + extra - 1;  // counting the step that begins now
}

// Algorithm 2 of the paper that admission.h cites. Its inner loop tries every push of the slowest
// worker; here the one that can be the nearest is computed.
std::uint64_t Admission::extra_steps(const WorkerState& fastest, const WorkerState& slowest,
                                     std::uint64_t most) const {
  if (fastest.pushes < 2 || slowest.pushes < 2) return 0;
  const double fast_s = fastest.pushed_s[0] - fastest.pushed_s[1];
  const double slow_s = slowest.pushed_s[0] - slowest.pushed_s[1];
  const double last_push = static_cast<double>(most) + 1.0;
  std::uint64_t best = 0;
  double least_s = std::numeric_limits<double>::infinity();
  for (std::uint64_t extra = 0; extra <= most; ++extra) {
    const double ready_s = fastest.pushed_s[0] + static_cast<double>(extra) * fast_s;
    const double pushes = slow_s > 0 ? (ready_s - slowest.pushed_s[0]) / slow_s : 1.0;
    const double nearest = std::clamp(std::round(pushes), 1.0, last_push);
    const double wait_s = std::abs(slowest.pushed_s[0] + nearest * slow_s - ready_s);
    if (wait_s < least_s) {
      best = extra;
      least_s = wait_s;
    }
  }
  return best;
}

bool Admission::admits(std::uint32_t worker, std::uint64_t version) const {
  if (rule_.gather == Gather::kRound) return !is_in_round(workers_.at(worker));
  if (rule_.unit == BoundUnit::kVersions) return versions_allow(version);
  if (clock_.admits(worker)) return true;
  return rule_.bound_max && clock_.clock(worker) <= workers_.at(worker).granted_clock;
}

bool Admission::versions_allow(std::uint64_t version) const {
  return computing_.empty() || version - computing_.first().first <= *rule_.bound;
}

void Admission::park(std::uint32_t worker) {
  WorkerState& state = workers_.at(worker);
  const std::uint64_t clock = clock_.clock(worker);
  stop_computing(state);
  if (state.waiting && state.parked_clock == clock) return;
  state.waiting = true;
  state.parked_clock = clock;
  waiting_[clock].push_back(worker);
}

bool Admission::wake(std::uint32_t worker) {
  return std::exchange(workers_.at(worker).waiting, false);
}

void Admission::suspend(std::uint32_t worker) { stop_computing(workers_.at(worker)); }

bool Admission::close_round() {
  if (rule_.gather != Gather::kRound || arrived_ == 0) return false;
  const std::size_t live = clock_.size();
  const std::size_t awaited = live > rule_.backup_workers ? live - rule_.backup_workers : 1;
  if (arrived_ < awaited) return false;
  ++round_;
  arrived_ = 0;
  round_closed_ = true;
  return true;
}

void Admission::give_up_round(const std::unordered_map<std::uint32_t, std::uint64_t>& clocks) {
  for (auto& [worker, state] : workers_) {
    state.dropped |= is_in_round(state);
    const auto found = clocks.find(worker);
    if (found != clocks.end()) state.left_out_clock = found->second;
  }
  ++round_;
  arrived_ = 0;
  round_closed_ = true;
}

void Admission::release(std::uint64_t version, std::vector<std::uint32_t>& released) {
  constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();
  const bool round_closed = std::exchange(round_closed_, false);
  if (waiting_.empty()) return;
  if (rule_.gather == Gather::kRound) {
    if (round_closed) release_outside_round(released);
  } else if (rule_.unit == BoundUnit::kVersions) {
    if (versions_allow(version)) release_up_to(kAll, released);
  } else {
    const std::uint64_t minimum = clock_.minimum();
    const bool is_limited = rule_.bound && *rule_.bound < kAll - minimum;
    release_up_to(is_limited ? minimum + *rule_.bound : kAll, released);
  }
}

void Admission::release_up_to(std::uint64_t clock, std::vector<std::uint32_t>& released) {
  while (!waiting_.empty() && waiting_.first().first <= clock) {
    const auto& [parked_clock, waiting] = waiting_.first();
    for (const std::uint32_t worker : waiting) {
      const auto found = workers_.find(worker);
      if (found == workers_.end() || !found->second.waiting) continue;
      if (found->second.parked_clock != parked_clock) continue;
      found->second.waiting = false;
      released.push_back(worker);
    }
    waiting_.erase(std::uint64_t{parked_clock});
  }
}

void Admission::release_outside_round(std::vector<std::uint32_t>& released) {
  const std::size_t first = released.size();
  release_up_to(std::numeric_limits<std::uint64_t>::max(), released);
  const auto begin = released.begin() + static_cast<std::ptrdiff_t>(first);
  const auto parked_again = [&](std::uint32_t worker) {
    const bool stays = is_in_round(workers_.at(worker));
    if (stays) park(worker);
    return stays;
  };
  released.erase(std::remove_if(begin, released.end(), parked_again), released.end());
}

void Admission::go_on(std::uint32_t worker) {
  WorkerState& state = workers_.at(worker);
  state.waiting = false;
  start_computing(state);
}

void Admission::note_pull(std::uint32_t worker, std::uint64_t version) {
  WorkerState& state = workers_.at(worker);
  const bool computing = state.computing;
  stop_computing(state);
  state.pulled_version = version;
  if (computing) start_computing(state);
}

void Admission::start_computing(WorkerState& state) {
  if (rule_.unit != BoundUnit::kVersions || state.computing) return;
  state.computing = true;
  ++computing_[state.pulled_version];
}

void Admission::stop_computing(WorkerState& state) {
  if (!state.computing) return;
  state.computing = false;
  if (--computing_[state.pulled_version] == 0) computing_.erase(state.pulled_version);
}

}  // namespace leash
