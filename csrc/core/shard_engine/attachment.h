// A worker's segment that this process has mapped: leash.ps.wire.segment draws it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/shard_engine/buffer.h"
#include "core/shard_engine/served_chunks.h"
#include "core/wire/headers.h"
#include "core/wire/segment.h"

namespace leash {

// Serves the pushes that come over the connection which attached it. An old copy of a push may
// still come in over a connection that was lost. It names memory in which its worker may have newer
// numbers by now, so it is refused.
class Attachment {
 public:
  // memory: the segment. ring_route: that of its ring; empty without one. REQUIRES: the memory has
  // as many bytes as one of this model, with an outbox or without. The attachment has a reference
  // to it, which its user drops.
  Attachment(std::string route, std::string ring_route, Buffer* memory, bool has_outbox,
             const ServedChunks& chunks);

  // Whether a message with this route came over the connection, or by the ring of the segment.
  bool came_over(std::string_view route) const {
    return route == route_ || (!ring_route_.empty() && route == ring_route_);
  }
  Buffer* memory() const { return memory_; }

  // These throw Refused if the segment has no such memory, or it is not fit for the chunk.
  void require_slab(std::uint32_t slab) const;
  void require_fit(const PushHeader& push) const;
  void require_fit(const PushHeader& push, std::uint32_t chunk) const;

  // Where a chunk's numbers lie, and its payload as a codec wrote it.
  std::byte* values(std::uint32_t slab, std::uint32_t chunk) const;
  std::byte* outbox(std::uint32_t chunk) const;
  // The word that tells the worker what lies in the chunk's place.
  std::uint64_t* state(std::uint32_t chunk) const;

 private:
  std::string route_;
  std::string ring_route_;
  Buffer* memory_;
  bool has_outbox_;
  const ServedChunks* chunks_;
};

// The bytes of a segment for a model of this size, and where its rings begin.
std::size_t segment_nbytes(std::size_t slab_nbytes, bool has_outbox);
std::size_t place_of_rings(std::size_t slab_nbytes, bool has_outbox);

}  // namespace leash
