// What a push brings, and what it sets off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/shard/parked.h"

namespace leash {

struct Push {
  std::uint32_t chunk;
  std::uint32_t worker;
  std::uint64_t step;     // from 1
  std::uint64_t samples;  // the weight of this gradient in a mean
  Gradient gradient;      // or a buffer's values
  Destination answer;     // the gradient's own memory, with its owner, or other
  bool wants_payload;
  double now_s = 0.0;  // when it came; read by dynamic bounds alone
};

// What to do with a push that holds a NaN or an infinity.
enum class Nonfinite : std::uint8_t {
  kRaise,  // tick, change nothing, leave the answer to the caller
  kSkip,   // tick, change nothing, answer as usual
  kApply   // do not look
};

enum class Outcome : std::uint8_t {
  kApplied,        // ticked; where means are taken, the update itself may come with a later push
  kDropped,        // ticked, but too stale to be applied: answered
  kDuplicate,      // ticked before: answered, not applied
  kGap,            // a step is missing before this one: nothing changed
  kNotLive,        // no such worker: nothing changed
  kUninitialized,  // the chunk has no values: nothing changed
  kNonfinite       // ticked, but not applied: see Nonfinite
};

// An answer that may go out now. Its destination holds the parameters if has_payload.
struct Reply {
  std::uint32_t chunk;
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t version;    // of the chunk
  std::uint64_t lag;        // of the worker, now
  std::uint64_t staleness;  // of the push that is answered; of a late duplicate, the latest
  bool dropped;             // that push, or of a late duplicate the latest, was
  bool has_payload;
};

struct PushResult {
  Outcome outcome = Outcome::kNotLive;
  std::vector<Reply> replies = {};  // in the order in which the pushes came
  std::uint64_t clock = 0;          // the worker's, on this chunk, now; 0 if it is not live
  std::optional<std::size_t> nonfinite_index = {};  // of the first such value in the chunk
};

struct PullResult {
  std::uint64_t version = 0;  // of the chunk
  // Where a bound counts versions, the worker that pulls may be the one that others waited for.
  std::vector<Reply> replies = {};
};

struct ShardStats {
  std::uint64_t applied = 0;  // pushes that ticked
  std::uint64_t updates = 0;  // versions, over all chunks
  std::uint64_t duplicates = 0;
  std::uint64_t gaps = 0;
  std::uint64_t nonfinite = 0;  // pushes with such a value
  std::uint64_t dropped = 0;    // pushes that were too stale; not counted in what follows
  std::uint64_t max_staleness = 0;
  std::uint64_t staleness_sum = 0;
  std::uint64_t staleness_count = 0;
  std::uint64_t max_lag = 0;  // over all answers that let a worker go on

  double mean_staleness() const {
    if (staleness_count == 0) return 0.0;
    return static_cast<double>(staleness_sum) / static_cast<double>(staleness_count);
  }
};

}  // namespace leash
