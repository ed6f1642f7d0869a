// How a chunk's parameters go out, and how gradients for it come in, a block at a time.
#pragma once

#include <cstddef>
#include <type_traits>

#include "core/codecs/codec.h"
#include "core/kernels/kernels.h"
#include "core/shard/chunk.h"
#include "core/shard/parked.h"

namespace leash {

// So many values of a gradient, of their sum and of the parameters stay in a first-level cache.
inline constexpr std::size_t kBlockValues = 1024;

// Throw std::invalid_argument unless such a chunk's numbers travel in this codec: to the server; as
// an answer.
void check_codec(Codec codec, const ChunkSpec& spec);
void check_answer_codec(Codec codec, const ChunkSpec& spec);

// The bytes of an answer. REQUIRES: what check_answer_codec() checks.
std::size_t answer_nbytes(Codec codec, const ChunkSpec& spec);

// Writes the n values from `begin` to their place in the destination.
void write_values(const Chunk& chunk, const Destination& to, std::size_t begin, std::size_t n,
                  const Kernels& kernels);
void write_values(const Chunk& chunk, const Destination& to, const Kernels& kernels);

// What a worker makes of an answer, the n values from `begin`, to their place in `values`, which is
// an array of the chunk's dtype. REQUIRES: the answer holds the chunk's values as they are.
void read_back(const Chunk& chunk, const Destination& answer, std::size_t begin, std::size_t n,
               std::byte* values, const Kernels& kernels);

// The n values of a gradient from `begin`: as they lie there if they are raw, else decoded into
// scratch, which holds n.
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
