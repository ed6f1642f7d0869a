// What both sides know of the memory that a worker shares; leash.ps.wire.segment draws it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

inline constexpr std::uint32_t kSlabs = 2;
// The states begin on a page behind all other parts. One word stands for each chunk, and so many
// bytes of a slab have a word at least: no model has as many chunks.
inline constexpr std::size_t kSlabNbytesPerState = 8192;
inline constexpr std::size_t kMoreStates = 8;
// In the outbox, a chunk in a codec may be so much longer than in f32.
inline constexpr std::size_t kOutboxMarginNbytes = 64;

constexpr std::size_t state_count(std::size_t slab_nbytes) {
  return slab_nbytes / kSlabNbytesPerState + kMoreStates;
}

}  // namespace leash
