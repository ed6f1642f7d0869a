// UTF-8, as strictly as Python decodes it: no form that is too long, no surrogates, nothing beyond
// U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

namespace leash {

bool is_utf8(std::string_view text) noexcept;

// How many code points a text has. REQUIRES: is_utf8(text).
std::size_t count_characters(std::string_view text) noexcept;

// The first `most` code points of a text, or all if it has no more. REQUIRES: is_utf8(text).
std::string_view first_characters(std::string_view text, std::size_t most) noexcept;

}  // namespace leash
