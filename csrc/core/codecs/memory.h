// Memory of messages. It is not the core's: whoever calls Shard::push() brings it, and an owner, an
// opaque pointer, stands for it. The core reads and writes the memory, never looks behind the
// owner, and gives the owner back through Shard::take_freed() when it needs the memory no longer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/codecs/codec.h"

namespace leash {

// A gradient, where its message left it.
struct Gradient {
  Encoded encoded = {};
  void* owner = nullptr;
};

// Where a chunk's parameters are to be written, and in which codec.
struct Destination {
  std::byte* data = nullptr;
  Codec codec = Codec::kRaw;  // or kBf16, kF16
  void* owner = nullptr;
  std::uint64_t* state = nullptr;  // tells whoever shares the memory what lies there, if anybody
};

// What a state says of the place: the gradient is there that its worker has left; neither that nor
// the parameters, since these are being written; or the parameters of a version. A worker reads it
// whose server has died.
inline constexpr std::uint64_t kUntouched = 0;
inline constexpr std::uint64_t kBeingWritten = 1;
constexpr std::uint64_t written_state(std::uint64_t version) { return (version << 2) | 2; }
constexpr bool is_written(std::uint64_t state) { return (state & 3) == 2; }
constexpr std::uint64_t version_of(std::uint64_t state) { return state >> 2; }

// To be called around what writes parameters to a place.
inline void begin_writing(const Destination& to) {
  if (to.state == nullptr) return;
  std::atomic_ref(*to.state).store(kBeingWritten, std::memory_order_relaxed);
  // No parameter is stored before it. For the processor, a process is killed between two of its
  // instructions, so this is for the compiler.
  std::atomic_signal_fence(std::memory_order_seq_cst);
}
inline void end_writing(const Destination& to, std::uint64_t version) {
  if (to.state == nullptr) return;
  std::atomic_ref(*to.state).store(written_state(version), std::memory_order_release);
}

}  // namespace leash
