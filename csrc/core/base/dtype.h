// The types of number that a chunk can hold: a chunk has one of them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace leash {

// Payloads are little-endian on the wire, and the core reads them without converting them.
static_assert(std::endian::native == std::endian::little);

enum class Dtype : std::uint8_t { kF32, kF64 };

inline constexpr std::size_t size_of(Dtype dtype) {
  return dtype == Dtype::kF32 ? sizeof(float) : sizeof(double);
}

// Returns `use.operator()<float>()` or `use.operator()<double>()`.
template <typename Use>
decltype(auto) with_dtype(Dtype dtype, Use&& use) {
  if (dtype == Dtype::kF32) return use.template operator()<float>();
  return use.template operator()<double>();
}

}  // namespace leash
