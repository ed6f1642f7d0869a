// The argument and the result of Shard::push().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/codecs/memory.h"
#include "core/optimizer/pieces.h"

namespace leash {

// A gradient of one worker for one chunk, or the new values of a buffer.
struct Push {
  std::uint32_t chunk;
  std::uint32_t worker;
  std::uint64_t step;     // the number of this worker's push to this chunk, from 1
  std::uint64_t samples;  // the weight of this gradient in a mean
  Gradient gradient;
  Destination answer;  // may be the gradient's own memory, with the same owner
  bool wants_payload;  // the answer carries the parameters
  double now_s = 0.0;  // when the push came; only dynamic bounds read it
  // The pieces for which there is no gradient. `gradient` may have no data only if they are all.
  PieceBits absent = {};
};

// What the shard does with a push of which a value would not be finite once it is applied. In every
// case the worker's clock ticks.
enum class Nonfinite : std::uint8_t {
  kRaise,  // leaves the block with that value out (see UpdateOptions); the caller answers
  kSkip,   // leaves it out, and answers as usual
  kApply   // applies it: no value is looked at
};

enum class Outcome : std::uint8_t {
  kApplied,        // the clock ticked; where means are taken, the update may come with a later push
  kDropped,        // the clock ticked; the push is too stale: answered, not applied
  kDuplicate,      // the clock had ticked for it before: answered, not applied
  kGap,            // a step is missing before this one: nothing changed
  kNotLive,        // no such worker: nothing changed
  kUninitialized,  // the chunk has no values: nothing changed
  kNonfinite       // the clock ticked; not applied, or only in part: see Nonfinite
};

// A mean of finite gradients of which a block was left out, since a value in it would not have been
// finite.
struct Overflow {
  std::uint32_t chunk;
  std::uint64_t step;
  std::size_t index;  // of the first such value in the chunk
};

// An answer that may go out now. If has_payload, the parameters are written at its destination.
struct Reply {
  std::uint32_t chunk;
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t version;  // the chunk's
  std::uint64_t lag;      // the worker's, now
  // Those of the push that is answered; if it repeats an older one, of the worker's latest push.
  std::uint64_t staleness;
  bool dropped;
  bool has_payload;
};

struct PushResult {
  Outcome outcome = Outcome::kNotLive;
  std::vector<Reply> replies = {};  // in the order in which the pushes came
  std::uint64_t clock = 0;  // the worker's on this chunk, after the push; 0 if it is not live
  // Where the first NaN or infinity of the chunk is, or would be.
  std::optional<std::size_t> nonfinite_index = {};
};

struct PullResult {
  std::uint64_t version = 0;  // the chunk's
  // Answers that the pull lets go: where a bound counts versions, others may have waited for the
  // worker that pulls.
  std::vector<Reply> replies = {};
};

}  // namespace leash
