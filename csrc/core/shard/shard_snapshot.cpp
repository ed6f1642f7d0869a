// The snapshot of a shard: what a chunk was is copied before it changes, unless it has been read.

#include <cstring>
#include <new>
#include <stdexcept>

#include "core/shard/shard.h"

namespace leash {

std::vector<ChunkMoment> Shard::open_snapshot() {
  if (initialized_chunks() != chunks_.size()) {
    throw std::invalid_argument("snapshot: expected every chunk to have values");
  }
  close_snapshot();
  std::vector<ChunkMoment> moments;
  moments.reserve(chunks_.size());
  Snapshot& snapshot = snapshot_.emplace();
  snapshot.copies.resize(chunks_.size());
  for (Chunk& chunk : chunks_) {
    ChunkMoment moment{.version = chunk.version,
                       .minimum = chunk.clock().minimum(),
                       .clocks = {},
                       .updates = updates(chunk.index),
                       .has_state = chunk.state_started};
    for (const std::uint32_t worker : chunk.clock().workers()) {
      moment.clocks.emplace_back(worker, chunk.clock().clock(worker));
    }
    snapshot.had_state.push_back(chunk.state_started);
    moments.push_back(std::move(moment));
    chunk.is_read_in_place = true;
  }
  return moments;
}

void Shard::close_snapshot() {
  snapshot_.reset();
  for (Chunk& chunk : chunks_) chunk.is_read_in_place = false;
}

std::size_t Shard::place_of(const Chunk& chunk) const {
  return static_cast<std::size_t>(&chunk - chunks_.data());
}

std::size_t Shard::arrays_of(const Chunk& chunk) const {
  return chunk.spec.kind == ChunkKind::kParameter ? 1 + states_.size() : 1;
}

void Shard::copy_for_snapshot(Chunk& chunk) {
  const std::size_t place = place_of(chunk), nbytes = chunk.spec.nbytes();
  const std::size_t stride = round_up_to_cache_line(nbytes);
  const std::size_t arrays = snapshot_->had_state[place] ? arrays_of(chunk) : 1;
  try {
    Slab copy(arrays * stride);
    std::memcpy(copy.data(), chunk.values, nbytes);
    for (std::size_t array = 1; array < arrays; ++array) {
      std::memcpy(copy.data() + array * stride, chunk.states[array - 1], nbytes);
    }
    snapshot_->copies[place] = std::move(copy);
    snapshot_->nbytes += arrays * stride;
    chunk.is_read_in_place = false;
  } catch (const std::bad_alloc&) {
    // Training is worth more than a checkpoint, so whoever reads it hears of this, not the worker.
    close_snapshot();
    snapshot_.emplace().is_lost = true;
  }
}

const std::byte* Shard::snapshot_of(const Chunk& chunk, std::size_t array) const {
  const std::optional<Slab>& copy = snapshot_->copies[place_of(chunk)];
  if (copy) return copy->data() + array * round_up_to_cache_line(chunk.spec.nbytes());
  return array == 0 ? chunk.values : chunk.states[array - 1];
}

void Shard::read_snapshot(std::uint32_t chunk_index, std::size_t array, std::size_t begin,
                          std::span<std::byte> out) const {
  const Chunk& chunk = at(chunk_index);
  if (!snapshot_) throw std::invalid_argument("snapshot: none is open");
  if (snapshot_->is_lost) throw std::bad_alloc();
  const std::size_t nbytes = chunk.spec.nbytes();
  if (!chunk.is_read_in_place && !snapshot_->copies[place_of(chunk)]) {
    throw std::invalid_argument(chunk_name(chunk.index) + " has been let go of");
  }
  if (array >= arrays_of(chunk) || begin > nbytes || out.size() > nbytes - begin) {
    throw std::invalid_argument(chunk_name(chunk.index) + " has no such values");
  }
  if (array > 0 && !snapshot_->had_state[place_of(chunk)]) {
    std::vector<std::byte> first(nbytes);
    optimizer_.write_first_state(chunk, first.data());
    std::memcpy(out.data(), first.data() + begin, out.size());
    return;
  }
  std::memcpy(out.data(), snapshot_of(chunk, array) + begin, out.size());
}

void Shard::release_snapshot(std::uint32_t chunk_index) {
  Chunk& chunk = at(chunk_index);
  chunk.is_read_in_place = false;
  if (!snapshot_ || snapshot_->is_lost) return;
  std::optional<Slab>& copy = snapshot_->copies[place_of(chunk)];
  if (!copy) return;
  const std::size_t arrays = snapshot_->had_state[place_of(chunk)] ? arrays_of(chunk) : 1;
  snapshot_->nbytes -= arrays * round_up_to_cache_line(chunk.spec.nbytes());
  copy.reset();
}

}  // namespace leash
