// The loops of the codec int8, over values that share one scale.
#pragma once

#include <cstddef>

namespace leash {

struct Int8Kernels {
  // out[i] = scale * payload[i], each an int8. REQUIRES: both hold n values and do not overlap.
  void (*decode)(float* out, const std::byte* payload, std::size_t n, float scale) noexcept;
};

}  // namespace leash
