#include "core/codecs/codec.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/base/float_bits.h"
#include "core/base/unaligned.h"

namespace leash {
namespace {

std::size_t blocks_of(std::size_t values, std::size_t block) {
  return values / block + (values % block != 0);
}

// Where the parts of a payload begin, and how many values topk sends.
const std::byte* int8_scales(const Encoded& e) { return e.data + sizeof(e.block); }
const std::byte* int8_values(const Encoded& e) {
  return int8_scales(e) + sizeof(float) * blocks_of(e.values, e.block);
}
std::size_t topk_count(const Encoded& e) { return e.nbytes / kTopkNbytes; }
const std::byte* topk_values(const Encoded& e) {
  return e.data + sizeof(std::uint32_t) * topk_count(e);
}

// Reads a value once: keeps the compiler from reading it again after it was checked. A sender that
// shares this memory could change it in between.
std::uint32_t read_once(const std::byte* payload, std::size_t i) noexcept {
  auto value = load<std::uint32_t>(payload, i);
  asm volatile("" : "+r"(value));
  return value;
}

[[noreturn]] void refuse_payload(const char* codec, const std::string& expected,
                                 const std::string& got) {
  throw std::invalid_argument(std::string(codec) + ": expected " + expected + ", got " + got);
}

void require_nbytes(const char* codec, std::size_t nbytes, std::size_t expected) {
  if (nbytes == expected) return;
  refuse_payload(codec, std::to_string(expected) + " bytes", std::to_string(nbytes));
}

std::uint32_t parse_int8(const std::byte* data, std::size_t nbytes, std::size_t values) {
  if (nbytes < sizeof(std::uint32_t)) {
    refuse_payload("int8", "at least 4 bytes", std::to_string(nbytes));
  }
  const std::uint32_t block = read_once(data, 0);
  if (!is_int8_block(block)) {
    refuse_payload("int8", "a block of a power of two from 64 to 65536", std::to_string(block));
  }
  require_nbytes("int8", nbytes, int8_nbytes(values, block));
  return block;
}

void parse_topk(const std::byte* data, std::size_t nbytes, std::size_t values) {
  if (nbytes % kTopkNbytes != 0)
    refuse_payload("topk", "a multiple of 8 bytes", std::to_string(nbytes));
  const std::size_t count = nbytes / kTopkNbytes;
  if (count > max_topk(values)) {
    refuse_payload(
        "topk",
        "at most " + std::to_string(max_topk(values)) + " of " + std::to_string(values) + " values",
        std::to_string(count));
  }
  std::size_t least = 0;  // the next index must not be below it
  for (std::size_t place = 0; place < count; ++place) {
    const std::uint32_t index = read_once(data, place);
    if (index < least || index >= values) {
      throw std::invalid_argument("topk: index " + std::to_string(index) + " at place " +
                                  std::to_string(place) + ": expected ascending indices below " +
                                  std::to_string(values));
    }
    least = std::size_t{index} + 1;
  }
}

// Tests whole blocks: a loop that may end at every value does not vectorise.
std::optional<std::size_t> first_nonfinite_half(const Encoded& e, std::uint16_t exponent) {
  constexpr std::size_t kBlock = 1024;
  const auto nonfinite_at = [&](std::size_t i) -> bool {
    return (load<std::uint16_t>(e.data, i) & exponent) == exponent;
  };
  for (std::size_t begin = 0; begin < e.values; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, e.values);
    std::uint16_t found = 0;
    for (std::size_t i = begin; i < end; ++i) {
      found = static_cast<std::uint16_t>(found | nonfinite_at(i));
    }
    for (std::size_t i = begin; found != 0 && i < end; ++i) {
      if (nonfinite_at(i)) return i;
    }
  }
  return std::nullopt;
}

std::optional<std::size_t> first_nonfinite_int8(const Encoded& e) {
  constexpr auto kLargest = std::bit_cast<std::uint32_t>(kMaxInt8Scale);
  const std::size_t blocks = blocks_of(e.values, e.block);
  for (std::size_t i = 0; i < blocks; ++i) {
    const auto magnitude = load<std::uint32_t>(int8_scales(e), i) & kMagnitude;
    if (magnitude > kLargest) return i * e.block;
  }
  return std::nullopt;
}

// The sender may have changed the index since parse() checked it, so it is checked again: what is
// returned is some index of the chunk.
std::optional<std::size_t> first_nonfinite_topk(const Encoded& e) {
  for (std::size_t place = 0; place < topk_count(e); ++place) {
    const auto bits = load<std::uint32_t>(topk_values(e), place);
    if ((bits & kInfinity) != kInfinity) continue;
    return std::min<std::size_t>(read_once(e.data, place), e.values - 1);
  }
  return std::nullopt;
}

void decode_int8(const Encoded& e, std::size_t begin, std::size_t n, float* out,
                 const Int8Kernels& kernels) noexcept {
  const std::size_t end = begin + n;
  while (begin < end) {
    const std::size_t block = begin / e.block;
    const std::size_t until = std::min((block + 1) * e.block, end);
    kernels.decode(out, int8_values(e) + begin, until - begin, load<float>(int8_scales(e), block));
    out += until - begin;
    begin = until;
  }
}

// The place of the first index that is at least `begin`. If the sender has changed the indices, so
// that they no longer ascend, some place up to the count.
std::size_t lower_bound(const Encoded& e, std::size_t begin) noexcept {
  std::size_t low = 0;
  std::size_t high = topk_count(e);
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (load<std::uint32_t>(e.data, middle) < begin) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

void decode_topk(const Encoded& e, std::size_t begin, std::size_t n, float* out) noexcept {
  std::memset(out, 0, n * sizeof(float));
  for (std::size_t place = lower_bound(e, begin); place < topk_count(e); ++place) {
    const std::size_t at =
        read_once(e.data, place) - begin;  // wraps around if the index is below begin
    if (at >= n) return;
    out[at] = load<float>(topk_values(e), place);
  }
}

}  // namespace

bool is_int8_block(std::uint32_t block) {
  return std::has_single_bit(block) && block >= kMinInt8Block && block <= kMaxInt8Block;
}

std::size_t int8_nbytes(std::size_t values, std::uint32_t block) {
  return sizeof(block) + sizeof(float) * blocks_of(values, block) + values;
}

Encoded parse(Codec codec, const std::byte* data, std::size_t nbytes, std::size_t values,
              std::size_t value_nbytes) {
  Encoded encoded{.codec = codec, .data = data, .nbytes = nbytes, .values = values};
  switch (codec) {
    case Codec::kRaw:
      require_nbytes("raw", nbytes, values * value_nbytes);
      break;
    case Codec::kBf16:
      require_nbytes("bf16", nbytes, kHalfNbytes * values);
      break;
    case Codec::kF16:
      require_nbytes("f16", nbytes, kHalfNbytes * values);
      break;
    case Codec::kInt8:
      encoded.block = parse_int8(data, nbytes, values);
      break;
    case Codec::kTopk:
      parse_topk(data, nbytes, values);
      break;
  }
  return encoded;
}

std::optional<std::size_t> find_nonfinite(const Encoded& encoded) {
  switch (encoded.codec) {
    case Codec::kBf16:
      return first_nonfinite_half(encoded, 0x7f80);
    case Codec::kF16:
      return first_nonfinite_half(encoded, 0x7c00);
    case Codec::kInt8:
      return first_nonfinite_int8(encoded);
    case Codec::kTopk:
      return first_nonfinite_topk(encoded);
    case Codec::kRaw:
      break;
  }
  return std::nullopt;
}

void decode(const Encoded& encoded, std::size_t begin, std::size_t n, float* out,
            const Kernels& kernels) noexcept {
  switch (encoded.codec) {
    case Codec::kBf16:
      return kernels.half.decode_bf16(out, encoded.data + kHalfNbytes * begin, n);
    case Codec::kF16:
      return kernels.half.decode_f16(out, encoded.data + kHalfNbytes * begin, n);
    case Codec::kInt8:
      return decode_int8(encoded, begin, n, out, kernels.int8);
    case Codec::kTopk:
      return decode_topk(encoded, begin, n, out);
    case Codec::kRaw:
      break;
  }
}

void encode_half(Codec codec, const float* values, std::size_t n, std::byte* out,
                 const Kernels& kernels) noexcept {
  const auto encode = codec == Codec::kBf16 ? kernels.half.encode_bf16 : kernels.half.encode_f16;
  encode(out, values, n);
}

}  // namespace leash
