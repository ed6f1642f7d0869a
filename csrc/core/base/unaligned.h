// Numbers in memory of any alignment, and what the loops over them tell the compiler.
//
// The namespace has no name, so each file has functions of its own. A shared inline function could
// be emitted out of line, and the linker could give the copy of one instruction set to code that
// must run on every CPU.
#pragma once

#include <cstddef>
#include <cstring>

// No value depends on an earlier one: each is read before it is written in the same round. This
// allows arguments to be the same memory, which __restrict would not.
#if defined(__clang__)
#define LEASH_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define LEASH_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace leash {
namespace {

template <typename T>
T load(const std::byte* payload, std::size_t i) noexcept {
  T value;
  std::memcpy(&value, payload + i * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void store(std::byte* payload, std::size_t i, T value) noexcept {
  std::memcpy(payload + i * sizeof(T), &value, sizeof(T));
}

}  // namespace
}  // namespace leash
