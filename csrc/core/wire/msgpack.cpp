#include "core/wire/msgpack.h"

#include <array>
#include <cstring>

#include "core/wire/utf8.h"

namespace leash {
namespace {

// The bytes that say what follows. Below 0x80 and from 0xe0 on they are themselves the integer;
// from 0x80 on a map, from 0x90 on an array and from 0xa0 on a string hold their size.
enum Form : unsigned char {
  kFixMap = 0x80,
  kFixArray = 0x90,
  kFixString = 0xa0,
  kNil = 0xc0,
  kFalse = 0xc2,
  kTrue = 0xc3,
  kBinary8 = 0xc4,
  kBinary16 = 0xc5,
  kBinary32 = 0xc6,
  kExtension8 = 0xc7,
  kExtension16 = 0xc8,
  kExtension32 = 0xc9,
  kFloat32 = 0xca,
  kFloat64 = 0xcb,
  kUnsigned8 = 0xcc,
  kUnsigned16 = 0xcd,
  kUnsigned32 = 0xce,
  kUnsigned64 = 0xcf,
  kSigned8 = 0xd0,
  kSigned16 = 0xd1,
  kSigned32 = 0xd2,
  kSigned64 = 0xd3,
  kString8 = 0xd9,
  kString16 = 0xda,
  kString32 = 0xdb,
  kArray16 = 0xdc,
  kArray32 = 0xdd,
  kMap16 = 0xde,
  kMap32 = 0xdf,
  kNegativeFix = 0xe0,
};

inline constexpr unsigned char kLargestExtensionType = 127;

// An array or map that is being read over: how many items are still to come, and whether every
// second one of them is a key.
struct Open {
  std::uint16_t items;
  bool is_map;
};

bool set(MsgpackValue& value, MsgpackKind kind, std::uint64_t number = 0) {
  value = {kind, number, {}};
  return true;
}

// The beginning of an array or map of so many.
bool set_size(MsgpackValue& value, MsgpackKind kind, std::uint64_t size) {
  const std::size_t most = kind == MsgpackKind::kArray ? kMaxArrayItems : kMaxMapEntries;
  return size <= most && set(value, kind, size);
}

Open opened(const MsgpackValue& value) {
  const bool is_map = value.kind == MsgpackKind::kMap;
  return {static_cast<std::uint16_t>(is_map ? 2 * value.number : value.number), is_map};
}

}  // namespace

bool MsgpackReader::read(MsgpackValue& value) noexcept {
  if (left() == 0) return false;
  const unsigned char form = *at_++;
  if (form < kFixMap) return set(value, MsgpackKind::kUnsigned, form);
  if (form < kFixArray) return set(value, MsgpackKind::kMap, form - kFixMap);
  if (form < kFixString) return set(value, MsgpackKind::kArray, form - kFixArray);
  if (form < kNil) return read_string(value, form - kFixString);
  if (form >= kNegativeFix) return set(value, MsgpackKind::kNegative);
  std::uint64_t size = 0;
  switch (form) {
    case kNil:
      return set(value, MsgpackKind::kNil);
    case kFalse:
    case kTrue:
      return set(value, MsgpackKind::kBool, form == kTrue);
    case kBinary8:
      return read_number(1, size) && read_binary(value, size);
    case kBinary16:
      return read_number(2, size) && read_binary(value, size);
    case kBinary32:
      return read_number(4, size) && read_binary(value, size);
    case kExtension8:
      return read_number(1, size) && read_extension(value, size);
    case kExtension16:
      return read_number(2, size) && read_extension(value, size);
    case kExtension32:
      return read_number(4, size) && read_extension(value, size);
    case kFloat32:
      return read_float(value, 4);
    case kFloat64:
      return read_float(value, 8);
    case kUnsigned8:
      return read_unsigned(value, 1);
    case kUnsigned16:
      return read_unsigned(value, 2);
    case kUnsigned32:
      return read_unsigned(value, 4);
    case kUnsigned64:
      return read_unsigned(value, 8);
    case kSigned8:
      return read_signed(value, 1);
    case kSigned16:
      return read_signed(value, 2);
    case kSigned32:
      return read_signed(value, 4);
    case kSigned64:
      return read_signed(value, 8);
    case kString8:
      return read_number(1, size) && read_string(value, size);
    case kString16:
      return read_number(2, size) && read_string(value, size);
    case kString32:
      return read_number(4, size) && read_string(value, size);
    case kArray16:
      return read_number(2, size) && set_size(value, MsgpackKind::kArray, size);
    case kArray32:
      return read_number(4, size) && set_size(value, MsgpackKind::kArray, size);
    case kMap16:
      return read_number(2, size) && set_size(value, MsgpackKind::kMap, size);
    case kMap32:
      return read_number(4, size) && set_size(value, MsgpackKind::kMap, size);
    default:  // one that nothing begins with, or an extension of 1 byte or more
      return false;
  }
}

bool MsgpackReader::skip_all(const MsgpackValue& value, std::size_t depth) noexcept {
  if (depth >= kMaxDepth) return false;
  std::array<Open, kMaxDepth> open;  // not initialised: few of them are used
  std::size_t opens = 0;
  open[opens++] = opened(value);
  while (opens > 0) {
    Open& inner = open[opens - 1];
    if (inner.items == 0) {
      --opens;
      continue;
    }
    const bool is_key = inner.is_map && inner.items % 2 == 0;
    --inner.items;
    MsgpackValue item;
    if (!read(item)) return false;
    if (is_key && item.kind != MsgpackKind::kString && item.kind != MsgpackKind::kBinary) {
      return false;
    }
    if (item.kind != MsgpackKind::kArray && item.kind != MsgpackKind::kMap) continue;
    if (depth + opens >= kMaxDepth) return false;
    open[opens++] = opened(item);
  }
  return true;
}

bool MsgpackReader::read_number(std::size_t nbytes, std::uint64_t& number) noexcept {
  if (left() < nbytes) return false;
  number = 0;
  for (std::size_t i = 0; i < nbytes; ++i) number = number << 8 | *at_++;
  return true;
}

bool MsgpackReader::read_unsigned(MsgpackValue& value, std::size_t nbytes) noexcept {
  set(value, MsgpackKind::kUnsigned);
  return read_number(nbytes, value.number);
}

bool MsgpackReader::read_signed(MsgpackValue& value, std::size_t nbytes) noexcept {
  const bool is_negative = left() > 0 && (*at_ & 0x80) != 0;
  set(value, is_negative ? MsgpackKind::kNegative : MsgpackKind::kUnsigned);
  return read_number(nbytes, value.number);
}

bool MsgpackReader::read_float(MsgpackValue& value, std::size_t nbytes) noexcept {
  if (left() < nbytes) return false;
  at_ += nbytes;
  return set(value, MsgpackKind::kFloat);
}

bool MsgpackReader::read_string(MsgpackValue& value, std::uint64_t nbytes) noexcept {
  if (nbytes > kMaxStringNbytes || left() < nbytes) return false;
  const std::string_view text(reinterpret_cast<const char*>(at_), nbytes);
  if (!is_utf8(text)) return false;
  at_ += nbytes;
  value = {MsgpackKind::kString, 0, text};
  return true;
}

bool MsgpackReader::read_binary(MsgpackValue& value, std::uint64_t nbytes) noexcept {
  if (nbytes > kMaxBinaryNbytes || left() < nbytes) return false;
  value = {MsgpackKind::kBinary, 0, {reinterpret_cast<const char*>(at_), nbytes}};
  at_ += nbytes;
  return true;
}

bool MsgpackReader::read_extension(MsgpackValue& value, std::uint64_t nbytes) noexcept {
  if (nbytes > kMaxExtensionNbytes || left() == 0) return false;
  if (*at_++ > kLargestExtensionType) return false;
  return set(value, MsgpackKind::kExtension);
}

void MsgpackWriter::write_map(std::size_t entries) noexcept {
  put(static_cast<unsigned char>(kFixMap | entries), 0, 0);
}

void MsgpackWriter::write(bool value) noexcept { put(value ? kTrue : kFalse, 0, 0); }

void MsgpackWriter::write(std::uint64_t number) noexcept {
  if (number < kFixMap) return put(static_cast<unsigned char>(number), 0, 0);
  if (number <= UINT8_MAX) return put(kUnsigned8, number, 1);
  if (number <= UINT16_MAX) return put(kUnsigned16, number, 2);
  if (number <= UINT32_MAX) return put(kUnsigned32, number, 4);
  put(kUnsigned64, number, 8);
}

void MsgpackWriter::write_string(std::string_view text) noexcept {
  const std::size_t nbytes = text.size();
  if (nbytes < 32) return put(static_cast<unsigned char>(kFixString | nbytes), 0, 0, text);
  if (nbytes <= UINT8_MAX) return put(kString8, nbytes, 1, text);
  put(kString16, nbytes, 2, text);
}

void MsgpackWriter::write_binary(std::string_view binary) noexcept {
  const std::size_t nbytes = binary.size();
  if (nbytes <= UINT8_MAX) return put(kBinary8, nbytes, 1, binary);
  put(kBinary16, nbytes, 2, binary);
}

void MsgpackWriter::put(unsigned char form, std::uint64_t number, std::size_t number_nbytes,
                        std::string_view bytes) noexcept {
  const auto room = static_cast<std::size_t>(end_ - at_);
  had_room_ = had_room_ && room >= 1 + number_nbytes && room - 1 - number_nbytes >= bytes.size();
  if (!had_room_) return;
  *at_++ = form;
  for (std::size_t i = number_nbytes; i > 0; --i) {
    *at_++ = static_cast<unsigned char>(number >> 8 * (i - 1));
  }
  if (!bytes.empty()) std::memcpy(at_, bytes.data(), bytes.size());
  at_ += bytes.size();
}

}  // namespace leash
