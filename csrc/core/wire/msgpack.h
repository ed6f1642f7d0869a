// msgpack in memory that may hold anything: a reader that accepts what Python's msgpack.unpackb
// accepts with the limits below, and a writer that writes what msgpack.packb does.
// https://github.com/msgpack/msgpack/blob/master/spec.md
//
// Neither allocates or throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace leash {

// The limits of a header, as leash.ps.wire.frames has them.
inline constexpr std::size_t kMaxStringNbytes = 2048;
inline constexpr std::size_t kMaxBinaryNbytes = 3072;
inline constexpr std::size_t kMaxArrayItems = 256;
inline constexpr std::size_t kMaxMapEntries = 64;
inline constexpr std::size_t kMaxExtensionNbytes = 0;
// Of arrays and maps in one another, the outermost counted. It is msgpack's own.
inline constexpr std::size_t kMaxDepth = 1024;

enum class MsgpackKind : std::uint8_t {
  kNil,
  kBool,
  kUnsigned,  // an integer from 0, in any of the forms
  kNegative,
  kFloat,
  kString,
  kBinary,
  kArray,
  kMap,
  kExtension,
};

// A value, or the beginning of an array or map.
struct MsgpackValue {
  MsgpackKind kind = MsgpackKind::kNil;
  std::uint64_t number = 0;     // the bool or integer; of an array its items, of a map its entries
  std::string_view bytes = {};  // of a string, which is UTF-8, or of binary; lies in what was read
};

class MsgpackReader {
 public:
  explicit MsgpackReader(std::span<const std::byte> bytes) noexcept
      : at_(reinterpret_cast<const unsigned char*>(bytes.data())), end_(at_ + bytes.size()) {}

  // Reads a value, of an array or map only its beginning: the items follow, or keys and values in
  // turn. Returns false where there is no value, or one beyond a limit; the reader is then of no
  // further use.
  bool read(MsgpackValue& value) noexcept;

  // Reads everything in an array or map whose beginning read() gave, `depth` of them around it.
  // Returns false as read() does, for more than kMaxDepth in one another, and for a key that is
  // neither string nor binary. Of any other value there is nothing to read.
  bool skip_items(const MsgpackValue& value, std::size_t depth) noexcept {
    return (value.kind != MsgpackKind::kArray && value.kind != MsgpackKind::kMap) ||
           skip_all(value, depth);
  }

  // How many bytes are still to be read.
  std::size_t left() const noexcept { return static_cast<std::size_t>(end_ - at_); }

 private:
  bool skip_all(const MsgpackValue& value, std::size_t depth) noexcept;
  bool read_number(std::size_t nbytes, std::uint64_t& number) noexcept;
  bool read_unsigned(MsgpackValue& value, std::size_t nbytes) noexcept;
  bool read_signed(MsgpackValue& value, std::size_t nbytes) noexcept;
  bool read_float(MsgpackValue& value, std::size_t nbytes) noexcept;
  bool read_string(MsgpackValue& value, std::uint64_t nbytes) noexcept;
  bool read_binary(MsgpackValue& value, std::uint64_t nbytes) noexcept;
  bool read_extension(MsgpackValue& value, std::uint64_t nbytes) noexcept;

  const unsigned char* at_;
  const unsigned char* end_;
};

// Writes the shortest form of each value from the beginning of `out` on. Once something has found
// no room, nothing more is written.
class MsgpackWriter {
 public:
  explicit MsgpackWriter(std::span<std::byte> out) noexcept
      : begin_(reinterpret_cast<unsigned char*>(out.data())),
        at_(begin_),
        end_(begin_ + out.size()) {}

  void write_map(std::size_t entries) noexcept;  // REQUIRES: entries < 16. They are written next.
  void write(bool value) noexcept;
  void write(std::uint64_t number) noexcept;
  void write_string(std::string_view text) noexcept;  // REQUIRES: less than 64 KiB, as below
  void write_binary(std::string_view binary) noexcept;

  bool had_room() const noexcept { return had_room_; }
  std::size_t nbytes() const noexcept { return static_cast<std::size_t>(at_ - begin_); }

 private:
  // A byte that says what follows, a number in so many bytes, and bytes as they are.
  void put(unsigned char form, std::uint64_t number, std::size_t number_nbytes,
           std::string_view bytes = {}) noexcept;

  unsigned char* begin_;
  unsigned char* at_;
  unsigned char* end_;
  bool had_room_ = true;
};

}  // namespace leash
