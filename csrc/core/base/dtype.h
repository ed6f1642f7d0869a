// The two kinds of number that a chunk can hold.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace leash {

// Payloads are little-endian on the wire, and are used as they come.
static_assert(std::endian::native == std::endian::little);

enum class Dtype : std::uint8_t { kF32, kF64 };

inline constexpr std::size_t size_of(Dtype dtype) {
  return dtype == Dtype::kF32 ? sizeof(float) : sizeof(double);
}

// Calls `use.operator()<float>()` or `use.operator()<double>()`.
template <typename Use>
decltype(auto) with_dtype(Dtype dtype, Use&& use) {
  if (dtype == Dtype::kF32) return use.template operator()<float>();
  return use.template operator()<double>();
}

}  // namespace leash
