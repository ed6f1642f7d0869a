#include "core/optimizer/chunk_values.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

namespace leash {

namespace {

void validate_rows(const ChunkSpec& spec) {
  if (spec.row_lengths.empty()) return;
  const auto is_whole = [](std::size_t piece, std::size_t row) {
    return row == 0 || piece % row == 0;
  };
  if (std::ranges::equal(spec.piece_lengths, spec.row_lengths, is_whole)) return;
  throw std::invalid_argument(
      "row_lengths: expected one for each of piece_lengths, which it divides, or 0");
}

}  // namespace

void validate(const ChunkSpec& spec) {
  // Far above any message, and so low that no sum of sizes overflows.
  constexpr std::size_t kMost = std::size_t{1} << 32;
  if (spec.values > kMost) {
    throw std::invalid_argument("values: expected at most " + std::to_string(kMost) + ", got " +
                                std::to_string(spec.values));
  }
  if (spec.piece_slots.size() != spec.piece_lengths.size()) {
    throw std::invalid_argument("piece_slots: expected a slot for each of piece_lengths");
  }
  validate_rows(spec);
  if (spec.piece_lengths.empty()) return;
  std::size_t total = 0;
  for (const std::size_t length : spec.piece_lengths) total += std::min(length, kMost);
  if (total == spec.values && std::ranges::count(spec.piece_lengths, 0U) == 0) return;
  throw std::invalid_argument("piece_lengths: expected positive lengths that add up to " +
                              std::to_string(spec.values));
}

Pieces pieces_of(const ChunkSpec& spec) {
  const std::size_t whole[] = {spec.values};
  return Pieces(spec.piece_lengths.empty() ? std::span<const std::size_t>(whole)
                                           : std::span(spec.piece_lengths));
}

void check_codec(Codec codec, const ChunkSpec& spec) {
  if (codec == Codec::kRaw) return;
  if (spec.dtype == Dtype::kF32 && spec.kind == ChunkKind::kParameter) return;
  throw std::invalid_argument("codec: expected raw, since the others carry f32 parameters only");
}

void check_answer_codec(Codec codec, const ChunkSpec& spec) {
  check_codec(codec, spec);
  if (codec != Codec::kInt8 && codec != Codec::kTopk) return;
  throw std::invalid_argument(
      "codec: expected raw, bf16 or f16 for an answer, since int8 and topk carry gradients only");
}

std::size_t answer_nbytes(Codec codec, const ChunkSpec& spec) {
  return codec == Codec::kRaw ? spec.nbytes() : kHalfNbytes * spec.values;
}

void write_values(const ChunkValues& chunk, const Destination& to, std::size_t begin, std::size_t n,
                  const Kernels& kernels) {
  if (to.codec == Codec::kRaw) {
    const std::size_t width = size_of(chunk.spec.dtype);
    std::memcpy(to.data + begin * width, chunk.values + begin * width, n * width);
  } else {
    encode_half(to.codec, chunk.values_as<float>() + begin, n, to.data + begin * kHalfNbytes,
                kernels);
  }
}

// A raw answer equals the chunk's own values, and those are still in the processor's cache.
void read_back(const ChunkValues& chunk, const Destination& answer, std::size_t begin,
               std::size_t n, std::byte* values, const Kernels& kernels) {
  if (answer.codec == Codec::kRaw) {
    const std::size_t width = size_of(chunk.spec.dtype);
    std::memcpy(values + begin * width, chunk.values + begin * width, n * width);
  } else {
    const Encoded encoded{.codec = answer.codec,
                          .data = answer.data,
                          .nbytes = answer_nbytes(answer.codec, chunk.spec),
                          .values = chunk.spec.values};
    decode(encoded, begin, n, reinterpret_cast<float*>(values) + begin, kernels);
  }
}

void write_values(const ChunkValues& chunk, const Destination& to, const Kernels& kernels) {
  write_values(chunk, to, 0, chunk.spec.values, kernels);
}

}  // namespace leash
