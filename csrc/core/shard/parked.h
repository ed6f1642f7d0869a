// What stays behind of a push that waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/codecs/codec.h"

namespace leash {

// The memory of messages is not the core's. An owner stands for it: opaque, and given back through
// Shard::take_freed() when the memory is no longer needed.
struct Gradient {
  Encoded encoded = {};
  void* owner = nullptr;
};

// Where a chunk's parameters are to be written.
struct Destination {
  std::byte* data = nullptr;
  Codec codec = Codec::kRaw;  // or kBf16, kF16
  void* owner = nullptr;
};

// A push waits for one of two things, or for both: its answer for the rule, its gradient for the
// rest of a mean. Both may be in the same memory, with one owner between them.
struct Parked {
  std::uint32_t worker;
  std::uint64_t step;
  std::uint64_t staleness;
  bool dropped = false;  // for its staleness

  bool awaits_answer = false;
  bool wants_payload = false;
  bool answer_written = false;  // by the pass that applied the gradient
  bool released = false;        // by the rule, in the call that looks at it now
  Destination answer = {};      // none if only the word is wanted

  bool contributes = false;
  std::uint64_t samples = 0;
  Gradient gradient = {};

  bool idle() const { return !awaits_answer && !contributes; }
};

}  // namespace leash
