// A shard's numbers at one moment, which a checkpoint reads while workers go on.
//
//   chunk   0 1 2 3 4      ▪ has changed since: a copy of it is kept
//           · ▪ ▫ ▪ ▫      ▫ has not: it is read where it lies
//                          · was read, and its copy freed
//
// Nothing is copied when it is opened. So it costs the memory of the chunks that change before they
// have been read: as much as the shard in the worst case.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/slab.h"

namespace leash {

// What a chunk had beside its numbers.
struct ChunkMoment {
  std::uint64_t version;
  std::uint64_t minimum;                                        // of the clocks
  std::vector<std::pair<std::uint32_t, std::uint64_t>> clocks;  // by live worker, ascending
  std::vector<std::uint64_t> updates;                           // of each piece
  bool has_state;                                               // the buffers held something
};

struct Snapshot {
  std::vector<bool> had_state;              // of each chunk, when it was opened
  std::vector<std::optional<Slab>> copies;  // of each chunk: its values, then its buffers
  std::size_t nbytes = 0;                   // of all copies
  bool is_lost = false;                     // there was no memory for a copy
};

}  // namespace leash
