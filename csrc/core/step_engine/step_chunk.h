// A chunk as a worker sees it: a range of its slabs, and the parts of slots that lie in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/dtype.h"

namespace leash {

// The part of one slot that lies in a chunk.
struct StepPiece {
  std::uint32_t slot = 0;
  std::size_t start = 0;  // the offset of its first byte in a slab
  std::size_t values = 0;
};

struct StepChunk {
  std::size_t start = 0;  // the offset of its first byte in a slab
  std::size_t values = 0;
  Dtype dtype = Dtype::kF32;
  bool is_parameters = true;           // or buffers, of which every slot has values
  std::vector<StepPiece> pieces = {};  // in the order of the slab; together they are all of it

  std::size_t nbytes() const { return values * size_of(dtype); }
  std::size_t stop() const { return start + nbytes(); }
};

}  // namespace leash
