// A chunk's decisions: who may go on, and which gradient counts. Numbers are not its business.
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

// What is decided about a push when it comes.
struct Arrival {
  std::uint64_t clock;      // the worker's, with this push
  std::uint64_t staleness;  // updates since it pulled
  bool dropped;             // too stale: it is answered and not applied
};

// A clock and a rule. Whoever owns one keeps the chunk's version, the count of its updates, and
// calls for each push, in this order:
//
//   arrive()        ticks; is the gradient dropped?
//                   the update, if it is applied on arrival
//   admits()        may the worker go on? If not, park() it
//   close_round()   only under Gather::kRound: is the mean to be applied now?
//   release()       who else may go on now?
//   go_on()         for everybody whose answer goes out
//
// With no lock, no memory of messages and no time of its own, it serves a Shard and a simulation
// alike. The cost of a call does not grow with the number of workers, but for the ones released,
// with one logarithm where bounds count versions. A steady state allocates nothing.
//
// A dynamic bound (Zhao et al. 2019, "Dynamic Stale Synchronous Parallel Distributed Training for
// Deep Learning", algorithms 1 and 2) asks, when the fastest worker is beyond the lower limit, how
// many more steps it should take before it waits: that number, up to the upper limit, after which
// one of the slowest worker's next pushes is the nearest, if both go on at the pace of their last
// two pushes. Of the slowest, the one that has been on its step for longest counts. Unlike the
// paper's, a grant never reaches beyond the upper limit, even when it follows on another one.
//
// A bound in versions: a worker goes on while version - (oldest version that any worker has which
// computes, that is, does not wait) <= bound; if all wait, all go on. So between a worker's pull
// and its push come at most bound + N - 1 updates, N being the workers that are live in between:
// the last time that anybody goes on before that push, version <= pulled + bound, and after it each
// of the N - 1 others pushes once at most.
class Admission {
 public:
  explicit Admission(const Rule& rule);  // throws as validate() does

  const Rule& rule() const { return rule_; }
  const StalenessClock& clock() const { return clock_; }

  // Whoever waits is judged anew: call release() next. If gradients were gathered by steps, and now
  // are by rounds, those who wait take part in the round. Throws as validate() does.
  void set_rule(const Rule& rule);

  void join(std::uint32_t worker, std::uint64_t clock, std::uint64_t version);  // as the clock's
  void leave(std::uint32_t worker);                                             // throws NotLive

  // The push of the worker's next step has come, at now_s, to a chunk of this version. Times of one
  // chunk do not decrease. Throws NotLive.
  Arrival arrive(std::uint32_t worker, double now_s, std::uint64_t version);

  // May a worker go on that does not compute, when the chunk has this version?
  bool admits(std::uint32_t worker, std::uint64_t version) const;
  // Its answer waits; what counts is its clock. A worker that asks again does not compute.
  void park(std::uint32_t worker);
  void suspend(std::uint32_t worker);
  bool wake(std::uint32_t worker);  // it waits no longer; has it waited, for an earlier step?
  bool is_waiting(std::uint32_t worker) const { return views_.at(worker).waiting; }

  // Ends the round, if it is complete: what was gathered is to be applied, as one mean.
  bool close_round();
  // Appends the waiting workers that may go on now; they wait no longer.
  void release(std::uint64_t version, std::vector<std::uint32_t>& released);

  // The worker computes its next step, with the parameters that it had or, after note_pull(), with
  // those of that version.
  void go_on(std::uint32_t worker);
  void note_pull(std::uint32_t worker, std::uint64_t version);

  // Of the worker's latest step.
  std::uint64_t staleness(std::uint32_t worker) const { return views_.at(worker).staleness; }
  bool was_dropped(std::uint32_t worker) const { return views_.at(worker).dropped; }

 private:
  struct View {
    std::uint64_t pulled_version;  // of the parameters that it has
    std::uint64_t staleness = 0;
    bool dropped = false;
    bool waiting = false;
    bool computing = false;           // and counted among computing_
    std::uint64_t parked_clock = 0;   // where it stands in waiting_
    std::uint64_t round = 0;          // the newest that it has sent a gradient for
    std::uint64_t granted_clock = 0;  // up to which it need not ask
    std::uint64_t pushes = 0;
    std::array<double, 2> pushed_s{};  // the latest push, and the one before it
  };

  void apply_bound();
  bool is_in_round(const View& view) const { return view.round == round_; }
  bool versions_allow(std::uint64_t version) const;
  void grant(std::uint32_t worker, View& view);
  std::uint64_t extra_steps(const View& fastest, const View& slowest, std::uint64_t most) const;
  void start_computing(View& view);
  void stop_computing(View& view);
  void release_up_to(std::uint64_t clock, std::vector<std::uint32_t>& released);
  void release_outside_round(std::vector<std::uint32_t>& released);

  Rule rule_;
  StalenessClock clock_;
  std::unordered_map<std::uint32_t, View> views_;
  // By the clock at which they wait. An entry counts if the worker's view says the same.
  RecyclingMap<std::uint64_t, std::vector<std::uint32_t>> waiting_;
  // How many with each version, for kVersions.
  RecyclingMap<std::uint64_t, std::size_t> computing_;
  std::uint64_t round_ = 1;
  std::size_t arrived_ = 0;  // live workers that are in the round
  bool round_closed_ = false;
};

}  // namespace leash
