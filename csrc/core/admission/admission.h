// Decides for a chunk who may go on, and whether a gradient counts. It needs no parameters for
// that.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/admission/clock.h"
#include "core/admission/rule.h"
#include "core/base/recycling_map.h"

namespace leash {

// What is known and decided about a push when it arrives.
struct Arrival {
  std::uint64_t clock;      // the worker's, this push included
  std::uint64_t staleness;  // updates of the chunk since the worker pulled
  bool dropped;             // the push is too stale: it is answered and not applied
};

// Holds a chunk's clock and its rule. Its owner (a Shard's chunk or a SimulatedChunk) keeps the
// chunk's version, the count of its updates, and makes these calls for each push, in this order:
//
//   arrive()        ticks the worker's clock, and says whether the gradient is dropped
//                   (the owner applies the gradient, if it is applied on arrival)
//   admits()        says whether the worker may go on; if not, the owner calls park()
//   close_round()   only under Gather::kRound: says whether the owner is to apply the mean now
//   release()       says who else may go on now
//   go_on()         for every worker whose answer goes out
//
// Not synchronised: the owner locks. It holds no messages and reads no time, so that a Shard and a
// simulation use the same code. The cost of a call does not grow with the number of workers, except
// with the number of those that it releases, and with the logarithm of their number where the bound
// counts versions. In a steady state no call allocates.
//
// A dynamic bound (Zhao et al. 2019, "Dynamic Stale Synchronous Parallel Distributed Training for
// Deep Learning", algorithms 1 and 2) asks, when the fastest worker is beyond the lower limit, how
// many more steps it should take before it waits: that number, up to the upper limit, after which
// one of the slowest worker's next pushes is the nearest, if both go on at the pace of their last
// two pushes. If several are the slowest, the one that has been on its step for longest counts.
// Unlike in the paper, these steps never lead beyond the upper limit, even if the worker was
// granted some before.
//
// A bound in versions: a worker goes on while version - oldest <= bound, where `oldest` is the
// oldest version with which a worker computes (that is, does not wait); if all wait, all go on. So
// at most bound + N - 1 updates come between a worker's pull and its push, with N workers live in
// between: when the last of the others goes on before that push, version <= pulled + bound, and
// after that each of the N - 1 others pushes at most once.
class Admission {
 public:
  explicit Admission(const Rule& rule);  // throws as validate() does

  const Rule& rule() const { return rule_; }
  const StepClock& clock() const { return clock_; }

  // Replaces the rule, also for the workers that wait: the owner calls release() next. If the old
  // rule gathered by steps and the new one does by rounds, those who wait have sent their gradient
  // for the round. Throws as validate() does.
  void set_rule(const Rule& rule);

  // The worker has the chunk's parameters of this version. Throws as StepClock::join() does.
  void join(std::uint32_t worker, std::uint64_t clock, std::uint64_t version);
  void leave(std::uint32_t worker);  // throws NotLive

  // Counts the steps of all workers up to this one as taken. REQUIRES: none has pushed yet.
  void skip_to(std::uint64_t step);

  // REQUIRES of every function below: the worker is live. Only arrive() throws NotLive if it is
  // not.

  // The push of the worker's next step has come at the time now_s, while the chunk has this
  // version. REQUIRES: now_s is not below that of any earlier call.
  Arrival arrive(std::uint32_t worker, double now_s, std::uint64_t version);

  // Whether a worker that does not compute may go on while the chunk has this version.
  bool admits(std::uint32_t worker, std::uint64_t version) const;
  // The worker waits from now on, until release() returns it or wake() is called.
  void park(std::uint32_t worker);
  // The worker does not compute: it asks again for the answer that lets it go on.
  void suspend(std::uint32_t worker);
  // The worker waits no longer. Returns whether it did, for the answer to an earlier step.
  bool wake(std::uint32_t worker);
  bool is_waiting(std::uint32_t worker) const { return workers_.at(worker).waiting; }

  // Ends the round if it is complete, and returns whether it was. The owner then applies the
  // gathered gradients as one mean.
  bool close_round();
  // Gives the round up: what was sent for it is dropped, and nobody waits for it. From now on the
  // pushes of each worker up to this clock are dropped too. The owner calls release() next.
  // REQUIRES: Gather::kRound.
  void give_up_round(const std::unordered_map<std::uint32_t, std::uint64_t>& clocks);
  // Appends the waiting workers that may go on now, and lets them wait no longer.
  void release(std::uint64_t version, std::vector<std::uint32_t>& released);

  // go_on(): the worker computes its next step from now on, with the parameters that it has.
  // note_pull(): the worker has the parameters of this version from now on.
  void go_on(std::uint32_t worker);
  void note_pull(std::uint32_t worker, std::uint64_t version);

  // About the worker's latest push.
  std::uint64_t staleness(std::uint32_t worker) const { return workers_.at(worker).staleness; }
  bool was_dropped(std::uint32_t worker) const { return workers_.at(worker).dropped; }

 private:
  struct WorkerState {
    std::uint64_t pulled_version;      // of the parameters that the worker has
    std::uint64_t staleness = 0;       // of its latest push
    bool dropped = false;              // its latest push was
    std::uint64_t left_out_clock = 0;  // up to this clock its pushes are, under Gather::kRound
    bool waiting = false;
    bool computing = false;          // it is counted in computing_
    std::uint64_t parked_clock = 0;  // its key in waiting_
    std::uint64_t round = 0;         // the newest round that it has sent a gradient for
    // Up to this clock the worker may be beyond the lower limit of a dynamic bound.
    std::uint64_t granted_clock = 0;
    std::uint64_t pushes = 0;          // since it joined
    std::array<double, 2> pushed_s{};  // the times of its latest push and the one before it
  };

  void apply_bound();
  bool is_in_round(const WorkerState& state) const { return state.round == round_; }
  bool versions_allow(std::uint64_t version) const;
  void grant(std::uint32_t worker, WorkerState& state);
  std::uint64_t extra_steps(const WorkerState& fastest, const WorkerState& slowest,
                            std::uint64_t most) const;
  void start_computing(WorkerState& state);
  void stop_computing(WorkerState& state);
  void release_up_to(std::uint64_t clock, std::vector<std::uint32_t>& released);
  void release_outside_round(std::vector<std::uint32_t>& released);

  Rule rule_;
  StepClock clock_;
  std::unordered_map<std::uint32_t, WorkerState> workers_;
  // The workers that wait, by their clocks. An entry is out of date, and is skipped, unless the
  // worker's state says `waiting` with the same parked_clock.
  RecyclingMap<std::uint64_t, std::vector<std::uint32_t>> waiting_;
  // With BoundUnit::kVersions: how many workers compute with each version.
  RecyclingMap<std::uint64_t, std::size_t> computing_;
  std::uint64_t round_ = 1;
  std::size_t arrived_ = 0;  // how many live workers have sent a gradient for the round
  // Those who waited for a round are to be let go by the next release().
  bool round_closed_ = false;
};

}  // namespace leash
