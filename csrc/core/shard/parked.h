// What a chunk keeps of a push that is not finished.
#pragma once

#include <cstdint>
#include <vector>

#include "core/codecs/memory.h"

namespace leash {

// A push waits for one of two things, or for both: its answer waits until the rule lets the worker
// go on, and its gradient until the other gradients of its mean have come. The two may lie in the
// same memory, and then have the same owner.
struct Parked {
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t staleness;
  bool dropped = false;  // it was too stale to be applied

  bool awaits_answer = false;
  bool wants_payload = false;
  bool answer_written = false;  // the pass that applied the gradient has written the answer too
  bool released = false;        // within one call: its answer goes out now
  Destination answer = {};      // empty unless wants_payload

  bool contributes = false;  // the gradient is kept for a mean
  std::uint64_t samples = 0;
  Gradient gradient = {};
  std::vector<std::uint8_t> absent = {};  // pieces for which there is no gradient, as PieceBits

  // Nothing is waited for any more, so the entry may go.
  bool idle() const { return !awaits_answer && !contributes; }
};

}  // namespace leash
