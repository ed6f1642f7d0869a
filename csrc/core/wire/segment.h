// What both sides know of the memory that a worker shares; leash.ps.wire.segment draws it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash {

inline constexpr std::uint32_t kSlabs = 2;
// In the outbox, a chunk in a codec may be so much longer than in f32.
inline constexpr std::size_t kOutboxMarginNbytes = 64;

}  // namespace leash
