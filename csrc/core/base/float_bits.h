// The bits of an f32 as an integer, and back. The namespace has no name, for the reason that
// unaligned.h gives.
#pragma once

#include <cstdint>
#include <cstring>

namespace leash {
namespace {

constexpr std::uint32_t kMagnitude =
    0x7fff'ffff;  // all bits but the sign; those of a NaN are above those of infinity
constexpr std::uint32_t kInfinity = 0x7f80'0000;
constexpr std::uint32_t kQuietNan = 0x7fc0'0000;

[[maybe_unused]] float float_of(std::uint32_t bits) noexcept {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

[[maybe_unused]] std::uint32_t bits_of(float value) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace
}  // namespace leash
