// Headers read by msgpack-c (https://github.com/msgpack/msgpack-c/tree/cpp_master) and checked
// field by field, without a line of the core's: what headers_fuzz.cpp compares the core with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace leash::fuzz {

inline constexpr std::size_t kMaxPlainNbytes = 4096;
inline constexpr std::size_t kMaxPlainEntries = 64;

enum class PlainType : std::uint8_t { kOther, kBool, kInteger, kString, kBinary };

struct PlainValue {
  PlainType type = PlainType::kOther;
  std::uint64_t number = 0;
  std::string_view bytes = {};
};

struct PlainEntry {
  std::string_view name;
  PlainValue value;
};

class PlainBytes {
 public:
  void write(const char* bytes, std::size_t n);
  std::span<const std::byte> bytes() const { return std::span(bytes_).first(nbytes_); }

 private:
  std::array<std::byte, kMaxPlainNbytes> bytes_;
  std::size_t nbytes_ = 0;
};

// A push, push_pull, params, ok or error.
class PlainHeader {
 public:
  // Returns false for anything else.
  bool read(std::span<const std::byte> header);

  std::string_view verb() const { return bytes("t"); }
  // The last value of a field, or its default.
  std::uint64_t number(std::string_view field) const;
  std::string_view bytes(std::string_view field) const;
  PlainBytes written() const;

 private:
  friend struct HeaderVisitor;
  const PlainValue* find(std::string_view field) const;
  bool has_valid_fields() const;

  std::array<PlainEntry, kMaxPlainEntries> entries_;
  std::size_t count_ = 0;
};

// Where a text must be cut to have at most so many characters; nothing if it is not UTF-8.
std::optional<std::size_t> plain_cut(std::string_view text, std::size_t most);

}  // namespace leash::fuzz
