// Compiled once for each instruction set; see kernels_impl.cpp.

#include <cstddef>
#include <cstdint>

#include "core/int8_kernels.h"
#include "core/unaligned.h"

namespace leash::LEASH_KERNELS {
namespace {

void decode(float* __restrict out, const std::byte* __restrict payload, std::size_t n,
            float scale) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = scale * static_cast<float>(load<std::int8_t>(payload, i));
  }
}

}  // namespace

extern const Int8Kernels kInt8Table;
const Int8Kernels kInt8Table{decode};

}  // namespace leash::LEASH_KERNELS
