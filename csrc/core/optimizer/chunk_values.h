// The numbers of a chunk; and, a block at a time, how they are written to an answer and how
// gradients for them are read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/base/dtype.h"
#include "core/codecs/codec.h"
#include "core/codecs/memory.h"
#include "core/kernels/kernels.h"
#include "core/optimizer/pieces.h"

namespace leash {

enum class ChunkKind : std::uint8_t {
  kParameter,  // workers push gradients, and the optimizer changes the values
  kBuffer      // workers push values, and the newest replace the old ones
};

struct ChunkSpec {
  std::size_t values;  // how many numbers
  Dtype dtype;
  ChunkKind kind;
  // How many values belong to each of the slots that have a part in the chunk, in their order, and
  // the numbers of these slots in the whole model. Without any, slot 0 has all values.
  std::vector<std::size_t> piece_lengths = {};
  std::vector<std::uint32_t> piece_slots = {};
  // How many values a row of each of these slots has; 0 where the piece is not made up of whole
  // rows. Without any, each piece is one row.
  std::vector<std::size_t> row_lengths = {};

  std::size_t nbytes() const { return values * size_of(dtype); }
};

// Throws std::invalid_argument for more values than a chunk can sensibly have, or if the pieces do
// not make up the chunk.
void validate(const ChunkSpec& spec);
Pieces pieces_of(const ChunkSpec& spec);
inline std::uint32_t slot_of(const ChunkSpec& spec, std::size_t piece) {
  return spec.piece_slots.empty() ? 0 : spec.piece_slots[piece];
}
inline std::size_t row_length_of(const ChunkSpec& spec, std::size_t piece) {
  if (!spec.row_lengths.empty()) return spec.row_lengths[piece];
  return spec.piece_lengths.empty() ? spec.values : spec.piece_lengths[piece];
}

// What an optimizer reads and changes of a chunk. The memory is the shard's.
struct ChunkValues {
  ChunkSpec spec;
  std::byte* values;  // aligned to a cache line, as the buffers are
  // The optimizer's buffers, in the order of state_names(). Null beyond those that it has, and in a
  // chunk of kind kBuffer.
  std::array<std::byte*, kMaxStates> states;
  Pieces pieces;
  bool state_started = false;  // the optimizer's buffers hold something
  bool state_loaded = false;   // and hold what an earlier run left, also where no piece says so
  std::uint64_t version = 0;   // the count of updates, of whichever pieces

  template <typename T>
  T* values_as() const {
    return reinterpret_cast<T*>(values);
  }
  template <typename T>
  T* state_as(std::size_t which) const {
    return reinterpret_cast<T*>(states[which]);
  }
};

// For delay compensation: a copy of the parameters that one worker got with its last answer.
struct Backup {
  std::byte* values;    // an array of the chunk's dtype and length
  bool filled = false;  // false until the worker has got its first answer
};

// As many values of a gradient, of a sum of gradients and of the parameters together fit into a
// first-level cache.
inline constexpr std::size_t kBlockValues = 1024;

// The first throws std::invalid_argument unless a worker may push to such a chunk in this codec,
// the second unless it may be answered in this codec.
void check_codec(Codec codec, const ChunkSpec& spec);
void check_answer_codec(Codec codec, const ChunkSpec& spec);

// The bytes of an answer. REQUIRES: check_answer_codec() accepts the codec.
std::size_t answer_nbytes(Codec codec, const ChunkSpec& spec);

// Writes the n values from `begin` on, or all values, to their place in the destination.
void write_values(const ChunkValues& chunk, const Destination& to, std::size_t begin, std::size_t n,
                  const Kernels& kernels);
void write_values(const ChunkValues& chunk, const Destination& to, const Kernels& kernels);

// Writes what a worker decodes from an answer, the n values from `begin` on, to their place in
// `values`, which is an array of the chunk's dtype and length.
// REQUIRES: these values of the chunk were written to the answer, and have not changed since.
void read_back(const ChunkValues& chunk, const Destination& answer, std::size_t begin,
               std::size_t n, std::byte* values, const Kernels& kernels);

// Returns the n values of a gradient from `begin` on: where they lie if the gradient is raw, else
// decoded into scratch, which holds n values.
template <typename T>
const std::byte* read_values(const Encoded& gradient, std::size_t begin, std::size_t n, T* scratch,
                             const Kernels& kernels) {
  if constexpr (std::is_same_v<T, float>) {
    if (gradient.codec != Codec::kRaw) {
      decode(gradient, begin, n, scratch, kernels);
      return reinterpret_cast<const std::byte*>(scratch);
    }
  }
  return gradient.data + begin * sizeof(T);
}

}  // namespace leash
