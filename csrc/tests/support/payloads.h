// Payloads of each codec, made without the code that encodes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/codecs/codec.h"

namespace leash::tests {

inline const Kernels& kernels_in_use() { return kernels_for(instruction_set()); }

// The i-th T of some bytes.
template <typename T>
T item(const std::byte* data, std::size_t i) {
  T value;
  std::memcpy(&value, data + i * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void append(std::vector<std::byte>& bytes, T value) {
  const auto* const begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof(T));
}

inline std::vector<std::byte> bytes_of(const std::vector<float>& values) {
  const auto* const begin = reinterpret_cast<const std::byte*>(values.data());
  return {begin, begin + values.size() * sizeof(float)};
}

// In memory that ends where the values end.
inline std::vector<float> decoded(const Encoded& encoded, std::size_t begin, std::size_t n) {
  const auto out = std::make_unique<float[]>(n);
  decode(encoded, begin, n, out.get(), kernels_in_use());
  return {out.get(), out.get() + n};
}

inline std::vector<float> decoded(const Encoded& encoded) {
  return decoded(encoded, 0, encoded.values);
}

inline std::vector<std::byte> encoded_half(Codec codec, const std::vector<float>& values) {
  std::vector<std::byte> payload(2 * values.size());
  encode_half(codec, values.data(), values.size(), payload.data(), kernels_in_use());
  return payload;
}

struct Int8 {
  std::size_t values;
  std::vector<std::byte> bytes;

  Encoded parsed() const { return parse(Codec::kInt8, bytes.data(), bytes.size(), values, 4); }
};

inline Int8 random_int8(std::size_t n, std::uint32_t block, std::mt19937& dice) {
  Int8 written{n, {}};
  append(written.bytes, block);
  for (std::size_t begin = 0; begin < n; begin += block) {
    append(written.bytes, static_cast<float>(1 + dice() % 1000) / 64.0f);
  }
  for (std::size_t i = 0; i < n; ++i) append(written.bytes, static_cast<std::int8_t>(dice()));
  return written;
}

inline std::vector<std::byte> topk_payload(const std::vector<std::uint32_t>& indices, float value) {
  std::vector<std::byte> payload;
  for (const std::uint32_t index : indices) append(payload, index);
  for (std::size_t i = 0; i < indices.size(); ++i) append(payload, value);
  return payload;
}

// Some finite payload of n values.
inline std::vector<std::byte> random_payload(Codec codec, std::size_t n, std::mt19937& dice) {
  std::vector<std::byte> payload;
  switch (codec) {
    case Codec::kRaw:
      for (std::size_t i = 0; i < n; ++i) append(payload, static_cast<float>(dice() % 100));
      break;
    case Codec::kBf16:
    case Codec::kF16:  // an exponent below the largest of both
      for (std::size_t i = 0; i < n; ++i) {
        append(payload, static_cast<std::uint16_t>(dice() & 0xbbff));
      }
      break;
    case Codec::kInt8:
      return random_int8(n, 64, dice).bytes;
    case Codec::kTopk: {
      std::vector<std::uint32_t> indices;
      for (std::uint32_t i = 0; i < n; ++i) {
        if (dice() % 4 == 0 && indices.size() < max_topk(n)) indices.push_back(i);
      }
      return topk_payload(indices, 1.5f);
    }
  }
  return payload;
}

// Makes some value of the payload a NaN or an infinity; of int8 a block's scale.
inline void make_nonfinite(Codec codec, std::vector<std::byte>& payload, std::size_t n,
                           std::mt19937& dice) {
  const std::uint32_t word = dice() % 2 == 0 ? 0x7f80'0000u : 0xffc0'0001u;
  if (codec == Codec::kInt8) {
    const std::size_t blocks = (n + 63) / 64;
    std::memcpy(payload.data() + 4 + 4 * (dice() % blocks), &word, 4);
  } else if (codec == Codec::kTopk) {
    const std::size_t k = payload.size() / 8;
    std::memcpy(payload.data() + 4 * (k + dice() % k), &word, 4);
  } else {
    const std::uint16_t half = codec == Codec::kBf16 ? 0x7f80 : 0x7c01;
    std::memcpy(payload.data() + 2 * (dice() % n), &half, 2);
  }
}

}  // namespace leash::tests
