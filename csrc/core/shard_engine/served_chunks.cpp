#include "core/shard_engine/served_chunks.h"

#include <array>
#include <utility>

#include "core/shard_engine/refused.h"

namespace leash {
namespace {

constexpr std::array kWireCodecs{WireCodec::kF32, WireCodec::kF64,  WireCodec::kBf16,
                                 WireCodec::kF16, WireCodec::kInt8, WireCodec::kTopk};

bool carries(WireCodec codec, const ChunkSpec& spec) {
  return leash::carries(codec, spec.dtype, spec.kind == ChunkKind::kParameter);
}

// int8 and topk leave something out, so parameters never travel in them.
bool answers(WireCodec codec) { return reply_codec(codec) == codec; }

bool has_fixed_size(Codec codec) { return codec != Codec::kInt8 && codec != Codec::kTopk; }

std::size_t most_nbytes(WireCodec codec, const ChunkSpec& spec) {
  switch (core_codec(codec)) {
    case Codec::kBf16:
    case Codec::kF16:
      return kHalfNbytes * spec.values;
    case Codec::kInt8:
      return int8_nbytes(spec.values, kMinInt8Block);
    case Codec::kTopk:
      return kTopkNbytes * max_topk(spec.values);
    case Codec::kRaw:
      break;
  }
  return spec.nbytes();
}

std::string hex_of(std::string_view bytes, std::size_t most_digits) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string digits;
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    digits += kDigits[value >> 4U];
    digits += kDigits[value & 15U];
    if (digits.size() >= most_digits) break;
  }
  digits.resize(std::min(digits.size(), most_digits));
  return digits;
}

}  // namespace

ServedChunks::ServedChunks(const Shard& shard, ModelMap map) : map_(std::move(map)) {
  for (std::size_t i = 0; i < shard.chunks(); ++i) {
    specs_.push_back(shard.spec(map_.first_chunk + static_cast<std::uint32_t>(i)));
  }
}

void ServedChunks::require_known(std::int64_t chunk) const {
  const std::int64_t place = chunk - std::int64_t{map_.first_chunk};
  if (place >= 0 && static_cast<std::size_t>(place) < specs_.size()) return;
  std::string text = "chunk " + std::to_string(chunk) + ": ";
  if (specs_.empty()) throw Refused(codes::kUnknownChunk, text + "this shard has no chunk at all");
  const std::uint64_t last = map_.first_chunk + specs_.size() - 1;
  throw Refused(codes::kUnknownChunk, text + "expected " + std::to_string(map_.first_chunk) +
                                          " to " + std::to_string(last));
}

void ServedChunks::require_carries(WireCodec codec, std::uint32_t chunk) const {
  if (!carries(codec, spec(chunk))) refuse_codec(codec, chunk, /*is_answer=*/false);
}

void ServedChunks::require_answers(WireCodec codec, std::uint32_t chunk) const {
  const bool may = answers(codec) && carries(codec, spec(chunk));
  if (!may) refuse_codec(codec, chunk, /*is_answer=*/true);
}

void ServedChunks::refuse_codec(WireCodec codec, std::uint32_t chunk, bool is_answer) const {
  const ChunkSpec& chunk_spec = spec(chunk);
  std::string known;
  for (const WireCodec candidate : kWireCodecs) {
    if (!carries(candidate, chunk_spec) || (is_answer && !answers(candidate))) continue;
    if (!known.empty()) known += ", ";
    known += name_of(candidate);
  }
  std::string text = "chunk " + std::to_string(chunk) + " holds ";
  text += name_of(raw_codec(chunk_spec.dtype));
  text += chunk_spec.kind == ChunkKind::kParameter ? " parameters" : " buffers";
  text += is_answer ? ": expected answer " : ": expected codec ";
  text += known + ", got '";
  text += name_of(codec);
  throw Refused(codes::kBadHeader, text + "'");
}

void ServedChunks::require_size(WireCodec codec, std::uint32_t chunk, std::size_t nbytes) const {
  const ChunkSpec& chunk_spec = spec(chunk);
  const std::size_t most = most_nbytes(codec, chunk_spec);
  const bool is_fixed = has_fixed_size(core_codec(codec));
  if (nbytes == most || (!is_fixed && nbytes < most)) return;
  std::string text = "chunk " + std::to_string(chunk) + ": expected ";
  if (!is_fixed) text += "at most ";
  text += std::to_string(most) + " bytes (";
  text += name_of(codec);
  text += ", " + std::to_string(chunk_spec.values) + " values), got " + std::to_string(nbytes);
  throw Refused(codes::kBadPayload, text);
}

bool ServedChunks::require_absent(const PushHeader& push) const {
  const ChunkSpec& chunk_spec = spec(push.chunk);
  const std::size_t count = chunk_spec.piece_lengths.size();
  bool any = false;
  bool all = true;
  bool fits = true;
  for (std::size_t bit = 0; bit < 8 * push.absent.size() || bit < count; ++bit) {
    const bool is_set = bit / 8 < push.absent.size() &&
                        ((static_cast<unsigned char>(push.absent[bit / 8]) >> (bit % 8)) & 1U) != 0;
    any |= is_set;
    if (bit < count) {
      all &= is_set;
    } else {
      fits &= !is_set;
    }
  }
  const bool is_buffer = chunk_spec.kind == ChunkKind::kBuffer;
  if (!fits || (any && is_buffer)) {
    std::string text = push.wants_parameters ? "push_pull" : "push";
    text += ".absent: expected ";
    text += is_buffer ? "none of a buffer" : "bits of " + std::to_string(count) + " slots";
    throw Refused(codes::kBadHeader, text + ", got " + hex_of(push.absent, 40));
  }
  return any && all;
}

std::uint32_t ServedChunks::slot_at(std::uint32_t chunk, std::size_t index) const {
  const ChunkSpec& chunk_spec = spec(chunk);
  std::size_t piece = 0;
  std::size_t end = 0;
  for (; piece + 1 < chunk_spec.piece_lengths.size(); ++piece) {
    end += chunk_spec.piece_lengths[piece];
    if (index < end) break;
  }
  return slot_of(chunk_spec, piece);
}

}  // namespace leash
