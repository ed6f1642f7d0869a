// Reads and writes numbers in memory of any alignment; and LEASH_INDEPENDENT, for the loops that
// do.
//
// The namespace has no name, so each file has its own copies of these functions. If the files
// shared inline functions, the compiler could emit one out of line, and the linker could give the
// copy of one instruction set to code that must run on every processor.
#pragma once

#include <cstddef>
#include <cstring>

// Tells the compiler that no iteration of the loop that follows depends on an earlier one. An
// iteration may write what it has read before, so two arguments may be the same memory, which
// __restrict would forbid. And has it take four vectors of values at a time: counting through them
// one by one would be a third of the instructions.
#if defined(__clang__)
#define LEASH_INDEPENDENT _Pragma("clang loop vectorize(assume_safety) unroll_count(4)")
#else
#define LEASH_INDEPENDENT _Pragma("GCC ivdep") _Pragma("GCC unroll 4")
#endif

namespace leash {
namespace {

// The i-th T of the payload.
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
