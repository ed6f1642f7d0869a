// The chunks of one shard as messages name them: what fits to each, and the words of a refusal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/codecs/codec.h"
#include "core/shard/shard.h"
#include "core/wire/headers.h"

namespace leash {

// Of the whole model, and of the shard's own chunks.
struct ModelMap {
  std::size_t slab_nbytes = 0;
  std::uint32_t first_chunk = 0;             // of this shard
  std::vector<std::size_t> starts = {};      // where each of its chunks begins in a slab
  std::vector<std::string> slot_names = {};  // of all slots of the model
};

// All functions that are given a chunk's number REQUIRE that require_known() has accepted it.
class ServedChunks {
 public:
  ServedChunks(const Shard& shard, ModelMap map);

  std::size_t slab_nbytes() const { return map_.slab_nbytes; }
  std::uint32_t first() const { return map_.first_chunk; }
  bool is_lowest(std::uint32_t chunk) const { return chunk == map_.first_chunk; }
  const ChunkSpec& spec(std::uint32_t chunk) const { return specs_[chunk - map_.first_chunk]; }
  std::size_t start(std::uint32_t chunk) const { return map_.starts[chunk - map_.first_chunk]; }
  std::size_t stop(std::uint32_t chunk) const { return start(chunk) + spec(chunk).nbytes(); }

  // Each of these throws Refused.
  void require_known(std::int64_t chunk) const;
  void require_carries(WireCodec codec, std::uint32_t chunk) const;
  // That parameters of the chunk travel in the codec.
  void require_answers(WireCodec codec, std::uint32_t chunk) const;
  void require_size(WireCodec codec, std::uint32_t chunk, std::size_t nbytes) const;
  // Checks the slots that a push names as absent; returns whether they are all that it could have.
  bool require_absent(const PushHeader& push) const;

  // The slot in which the chunk's value of this index lies, and its name.
  std::uint32_t slot_at(std::uint32_t chunk, std::size_t index) const;
  const std::string& name_of_slot(std::uint32_t slot) const { return map_.slot_names[slot]; }

 private:
  [[noreturn]] void refuse_codec(WireCodec codec, std::uint32_t chunk, bool is_answer) const;

  std::vector<ChunkSpec> specs_;
  ModelMap map_;
};

}  // namespace leash
