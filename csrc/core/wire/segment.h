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
// Rings carry headers between a worker and the first shards, in both directions: see lane/rings.
// They begin with a page for the worker's bell; each shard has a ring of requests and one of
// answers.
inline constexpr std::size_t kRingShards = 16;
inline constexpr std::size_t kRingPageNbytes = 4096;
inline constexpr std::size_t kRingWordsNbytes = 256;
inline constexpr std::size_t kRingRecords = 64;
inline constexpr std::size_t kRingRecordNbytes = 256;
inline constexpr std::size_t kRingHeaderNbytes = kRingRecordNbytes - 2;  // behind its size, a u16
inline constexpr std::size_t kRingNbytes = kRingWordsNbytes + kRingRecords * kRingRecordNbytes;
inline constexpr std::size_t kRingsNbytes = kRingPageNbytes + kRingShards * 2 * kRingNbytes;
// Where a shard's ring of requests begins in them; that of answers follows it.
constexpr std::size_t place_of_ring(std::size_t shard) {
  return kRingPageNbytes + shard * 2 * kRingNbytes;
}
// In the outbox, a chunk in a codec may be so much longer than in f32.
inline constexpr std::size_t kOutboxMarginNbytes = 64;

constexpr std::size_t state_count(std::size_t slab_nbytes) {
  return slab_nbytes / kSlabNbytesPerState + kMoreStates;
}

}  // namespace leash
