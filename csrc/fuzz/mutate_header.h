// The mutations of headers_fuzz.cpp: of bytes, and of a header as a map.
#pragma once

#include <cstddef>
#include <cstdint>

namespace leash::fuzz {

// Changes data[0..size), which has room for `most` bytes, by what the seed draws, and returns its
// new size. Most of what it makes is close to a header.
std::size_t mutate_header(std::uint8_t* data, std::size_t size, std::size_t most,
                          std::uint64_t seed);

}  // namespace leash::fuzz
