#include "core/wire/utf8.h"

#include <cstdint>
#include <cstring>

namespace leash {
namespace {

inline constexpr std::uint64_t kHighBits = 0x8080808080808080;

bool is_continuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

// Whether eight bytes are eight characters of ASCII.
bool are_ascii(const char* bytes) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof(word));
  return (word & kHighBits) == 0;
}

// The bytes of the character that begins with this one, and the range of its second byte (Unicode,
// table 3-7); 0 bytes if none begins so.
struct Form {
  std::size_t nbytes;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
};

Form form_of(unsigned char first) {
  if (first < 0x80) return {1};
  if (first < 0xc2) return {0};
  if (first < 0xe0) return {2};
  if (first == 0xe0) return {3, 0xa0, 0xbf};
  if (first == 0xed) return {3, 0x80, 0x9f};
  if (first < 0xf0) return {3};
  if (first == 0xf0) return {4, 0x90, 0xbf};
  if (first < 0xf4) return {4};
  if (first == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

// The bytes of the character that a text begins with; 0 if it begins with none.
std::size_t character_nbytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const Form form = form_of(byte(0));
  if (form.nbytes > text.size()) return 0;
  if (form.nbytes > 1 && (byte(1) < form.low || byte(1) > form.high)) return 0;
  for (std::size_t i = 2; i < form.nbytes; ++i) {
    if (!is_continuation(byte(i))) return 0;
  }
  return form.nbytes;
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    if (text.size() >= sizeof(std::uint64_t) && are_ascii(text.data())) {
      text.remove_prefix(sizeof(std::uint64_t));
      continue;
    }
    const std::size_t nbytes = character_nbytes(text);
    if (nbytes == 0) return false;
    text.remove_prefix(nbytes);
  }
  return true;
}

std::size_t count_characters(std::string_view text) noexcept {
  std::size_t count = 0;
  for (const char byte : text) count += !is_continuation(static_cast<unsigned char>(byte));
  return count;
}

std::string_view first_characters(std::string_view text, std::size_t most) noexcept {
  if (text.size() <= most) return text;
  std::size_t end = 0;
  for (std::size_t count = 0; end < text.size(); ++end) {
    if (is_continuation(static_cast<unsigned char>(text[end]))) continue;
    if (count++ == most) break;
  }
  return text.substr(0, end);
}

}  // namespace leash
