// What stays behind of a push that waits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

// The memory of a message. The core does not own it.
struct Frame {
  std::byte* data = nullptr;
  void* owner = nullptr;  // opaque; comes back through Shard::take_freed()
};

// A push waits for one of two things, or for both: its answer for the clock, its gradient for the
// rest of a bsp step. The two may be in one frame; after a duplicate that took over the answer
// they are in two.
struct Parked {
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t staleness;

  bool awaits_answer = false;
  bool wants_payload = false;
  bool answer_written = false;  // by the pass that applied the gradient
  bool released = false;        // by the clock, in the call that looks at it now
  Frame answer = {};            // where the parameters go; none if only the word is wanted

  bool contributes = false;
  std::uint64_t samples = 0;
  Frame gradient = {};

  bool idle() const { return !awaits_answer && !contributes; }
};

}  // namespace leash
