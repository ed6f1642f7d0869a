// What the files that are compiled once for each instruction set share. Each compilation defines
// LEASH_KERNELS, the name of its namespace.
//
// These files call no inline function of the standard library. The compiler may emit such a
// function out of line, and the linker then keeps one copy for the whole program: code that must
// run on every processor could get the copy that was compiled for AVX-512.
#pragma once

#include <cstddef>

#include "core/base/unaligned.h"

namespace leash::LEASH_KERNELS {

// kernels.h says what they compute.
template <typename T>
std::size_t first_nonfinite(const std::byte* payload, std::size_t n) noexcept;
template <typename T>
void accumulate(T* sum, const std::byte* payload, std::size_t n, T weight, bool first) noexcept;

}  // namespace leash::LEASH_KERNELS
