#include "core/shard_engine/attachment.h"

#include <utility>

#include "core/shard_engine/refused.h"

namespace leash {
namespace {

constexpr std::size_t kPageNbytes = 4096;
constexpr std::size_t kMinChunkNbytes = 64 * 1024;
constexpr std::size_t kMaxGroups = 4;

std::size_t pages(std::size_t nbytes) {
  return (nbytes + kPageNbytes - 1) / kPageNbytes * kPageNbytes;
}

// Slab 0 or 1; the outbox comes after them.
std::size_t place_of_slab(std::size_t slab_nbytes, std::size_t index) {
  return kPageNbytes + index * pages(slab_nbytes);
}

std::size_t place_of_states(std::size_t slab_nbytes, bool has_outbox) {
  const std::size_t slabs = place_of_slab(slab_nbytes, kSlabs);
  if (!has_outbox) return slabs;
  const std::size_t chunks = slab_nbytes / kMinChunkNbytes + kMaxGroups;
  return slabs + pages(slab_nbytes + kOutboxMarginNbytes * chunks);
}

}  // namespace

std::size_t segment_nbytes(std::size_t slab_nbytes, bool has_outbox) {
  return place_of_rings(slab_nbytes, has_outbox) + pages(kRingsNbytes);
}

std::size_t place_of_rings(std::size_t slab_nbytes, bool has_outbox) {
  return place_of_states(slab_nbytes, has_outbox) +
         pages(sizeof(std::uint64_t) * state_count(slab_nbytes));
}

Attachment::Attachment(std::string route, std::string ring_route, Buffer* memory, bool has_outbox,
                       const ServedChunks& chunks)
    : route_(std::move(route)),
      ring_route_(std::move(ring_route)),
      memory_(memory),
      has_outbox_(has_outbox),
      chunks_(&chunks) {}

void Attachment::require_slab(std::uint32_t slab) const {
  if (slab < kSlabs) return;
  throw Refused(codes::kBadSegment, "expected slab 0 or 1, got " + std::to_string(slab));
}

void Attachment::require_fit(const PushHeader& push) const {
  require_slab(push.slab);
  if (push.nbytes == 0 || has_outbox_) return;
  throw Refused(codes::kBadSegment, "expected raw values: this segment has no outbox");
}

void Attachment::require_fit(const PushHeader& push, std::uint32_t chunk) const {
  chunks_->require_carries(push.codec, chunk);
  if (core_codec(push.codec) != Codec::kRaw) {
    chunks_->require_size(push.codec, chunk, push.nbytes);
  } else if (push.nbytes != 0) {
    std::string text = "chunk " + std::to_string(chunk) + ": ";
    text += name_of(push.codec);
    text += " lies in the slab; expected nbytes 0, got " + std::to_string(push.nbytes);
    throw Refused(codes::kBadPayload, text);
  }
}

std::byte* Attachment::values(std::uint32_t slab, std::uint32_t chunk) const {
  return memory_->data() + place_of_slab(chunks_->slab_nbytes(), slab) + chunks_->start(chunk);
}

std::byte* Attachment::outbox(std::uint32_t chunk) const {
  return memory_->data() + place_of_slab(chunks_->slab_nbytes(), kSlabs) + chunks_->start(chunk) +
         kOutboxMarginNbytes * chunk;
}

std::uint64_t* Attachment::state(std::uint32_t chunk) const {
  if (chunk >= state_count(chunks_->slab_nbytes())) return nullptr;
  std::byte* const states = memory_->data() + place_of_states(chunks_->slab_nbytes(), has_outbox_);
  return reinterpret_cast<std::uint64_t*>(states) + chunk;
}

}  // namespace leash
