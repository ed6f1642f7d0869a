// Writes a worker's chunks in the codec of the run, and adds what rounding left over to the next
// gradients. (Error feedback: Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/step_engine/step_chunk.h"
#include "core/wire/headers.h"

namespace leash {

// The codec that a worker and its server agreed on, and the codec's settings.
struct EncodingSettings {
  WireCodec codec = WireCodec::kF32;
  std::uint32_t int8_block = 256;  // how many values share a scale
  double topk_ratio = 0.01;        // the share of a chunk's values that are sent
  // Of the parameters that a payload is answered with; none: the one that answers `codec`.
  std::optional<WireCodec> answer = {};
};

// Whether int8 and topk, which leave something out, or another codec.
bool has_residual(WireCodec codec);

class GradientEncoder {
 public:
  // residual: what rounding left over of each value so far, laid out like a slab; the encoder
  // changes it. Null for a codec that leaves nothing over. Throws std::invalid_argument for
  // settings that no gradient can be written with.
  GradientEncoder(const EncodingSettings& settings, std::uint32_t worker, std::byte* residual);

  // The codec in which a chunk travels: buffers and double precision travel raw.
  WireCodec codec_of(const StepChunk& chunk) const;
  // The codec that the answer to a chunk's push in `codec` is to have; none: the usual one.
  std::optional<WireCodec> answer_of(const StepChunk& chunk, WireCodec codec) const;
  // Whether a chunk travels in another form than the one in which it lies in a slab.
  bool rewrites(const StepChunk& chunk) const { return codec_of(chunk) != raw_codec(chunk.dtype); }

  // The most bytes that encode() writes for a chunk.
  std::size_t most_nbytes(const StepChunk& chunk) const;

  // Writes a chunk of a slab of gradients, and returns how many bytes it takes. The pieces that
  // `absent` names (bit i % 8 of byte i / 8 for the i-th) have no gradient, and hold zeros: what
  // rounding left over of them waits until they have one.
  // REQUIRES: rewrites(chunk); out holds most_nbytes(chunk), and overlaps nothing.
  std::size_t encode(const StepChunk& chunk, std::uint32_t index, std::uint64_t step,
                     const std::byte* gradients, std::string_view absent, std::byte* out);

 private:
  std::size_t write(const StepChunk& chunk, std::uint64_t seed, const std::byte* gradients,
                    std::byte* out) const;
  std::size_t topk_count(std::size_t values) const;

  EncodingSettings settings_;
  std::uint32_t worker_;
  std::byte* residual_;
  const Kernels& kernels_;
  std::vector<std::byte> waiting_;  // the residual of absent pieces; used within one call
};

// Whether the bits name the piece at this place.
inline bool names_piece(std::string_view bits, std::size_t place) {
  return place / 8 < bits.size() &&
         ((static_cast<unsigned char>(bits[place / 8]) >> (place % 8)) & 1U) != 0;
}

}  // namespace leash
