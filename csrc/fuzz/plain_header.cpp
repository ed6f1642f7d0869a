#include "fuzz/plain_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <msgpack.hpp>

namespace leash::fuzz {
namespace {

inline constexpr std::uint64_t kU32 = std::numeric_limits<std::uint32_t>::max();
inline constexpr std::uint64_t kU63 = std::numeric_limits<std::int64_t>::max();
inline constexpr std::size_t kMaxPlainDepth = 1024;  // of arrays and maps in one another

// A field as docs/wire-format.md has it. Where it has a default, that is a number, or no bytes.
struct PlainField {
  std::string_view name;
  PlainType type;
  std::uint64_t most;  // a number, or how many characters or bytes
  std::optional<std::uint64_t> default_number = std::nullopt;
};

using enum PlainType;

constexpr PlainField kPushFields[] = {{"worker", kInteger, kU32},   {"incarnation", kInteger, kU63},
                                      {"step", kInteger, kU63},     {"chunk", kInteger, kU32},
                                      {"codec", kString, 64},       {"samples", kInteger, kU32},
                                      {"absent", kBinary, 3072, 0}, {"table", kInteger, kU63, 0}};
constexpr PlainField kPushPullFields[] = {
    {"worker", kInteger, kU32},    {"incarnation", kInteger, kU63}, {"step", kInteger, kU63},
    {"chunk", kInteger, kU32},     {"codec", kString, 64},          {"samples", kInteger, kU32},
    {"chunks", kInteger, kU63, 1}, {"slab", kInteger, kU32, 0},     {"nbytes", kInteger, kU63, 0},
    {"absent", kBinary, 3072, 0},  {"has", kInteger, kU63, 0},      {"table", kInteger, kU63, 0},
    {"answer", kString, 64, 0}};
constexpr PlainField kParamsFields[] = {
    {"worker", kInteger, kU32},    {"step", kInteger, kU63},      {"chunk", kInteger, kU32},
    {"codec", kString, 64},        {"version", kInteger, kU63},   {"lag", kInteger, kU63},
    {"staleness", kInteger, kU63}, {"chunks", kInteger, kU63, 1}, {"unchanged", kBool, 1, 0}};
constexpr PlainField kOkFields[] = {{"worker", kInteger, kU32},
                                    {"step", kInteger, kU63},
                                    {"chunk", kInteger, kU32},
                                    {"taken", kBool, 1},
                                    {"number", kInteger, kU63, 0}};
constexpr PlainField kErrorFields[] = {{"code", kString, 64},      {"text", kString, 512},
                                       {"worker", kInteger, kU32}, {"step", kInteger, kU63},
                                       {"chunk", kInteger, kU32},  {"clock", kInteger, kU63}};

constexpr std::string_view kPlainCodecs[] = {"f32", "f64", "bf16", "f16", "int8", "topk"};

std::span<const PlainField> fields_of(std::string_view verb) {
  if (verb == "push") return kPushFields;
  if (verb == "push_pull") return kPushPullFields;
  if (verb == "params") return kParamsFields;
  if (verb == "ok") return kOkFields;
  if (verb == "error") return kErrorFields;
  return {};
}

// The number of bytes of the character that begins here, by way of its code point; 0 if none does.
std::size_t character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  std::size_t nbytes = 1;
  while (nbytes <= 4 && (byte(0) << nbytes & 0x80) != 0) ++nbytes;
  if ((byte(0) & 0x80) == 0) return 1;
  if (nbytes == 1 || nbytes > 4) return 0;
  std::uint32_t code = byte(0) & (0x7fu >> nbytes);
  for (std::size_t i = 1; i < nbytes; ++i) {
    if (byte(i) >> 6 != 2) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const std::uint32_t least = nbytes == 2 ? 0x80 : nbytes == 3 ? 0x800 : 0x10000;
  const bool is_surrogate = code >= 0xd800 && code < 0xe000;
  return code >= least && code <= 0x10ffff && !is_surrogate ? nbytes : 0;
}

bool fits(const PlainField& field, const PlainValue& value) {
  if (value.type != field.type) return false;
  switch (field.type) {
    case kString:
      return plain_cut(value.bytes, field.most) == value.bytes.size();
    case kBinary:
      return value.bytes.size() <= field.most;
    default:
      return value.number <= field.most;
  }
}

}  // namespace

// Collects the entries of a map, and stops at whatever Python's msgpack refuses with the limits of
// leash.ps.wire.frames. msgpack-c itself has no limits here, takes any bytes for a text, any value
// for a key and any number for the type of an extension.
struct HeaderVisitor : msgpack::null_visitor {
  explicit HeaderVisitor(PlainHeader& header_to_fill) : header(header_to_fill) {}

  bool visit_nil() { return take({}); }
  bool visit_boolean(bool value) { return take({kBool, value, {}}); }
  bool visit_positive_integer(std::uint64_t value) { return take({kInteger, value, {}}); }
  // msgpack-c calls this for every signed form, whatever its sign.
  bool visit_negative_integer(std::int64_t value) {
    if (value < 0) return take({});
    return visit_positive_integer(static_cast<std::uint64_t>(value));
  }
  bool visit_float32(float) { return take({}); }
  bool visit_float64(double) { return take({}); }
  bool visit_str(const char* bytes, std::uint32_t size) {
    const std::string_view text(bytes, size);
    return size <= 2048 && plain_cut(text, size).has_value() && take({kString, 0, text});
  }
  bool visit_bin(const char* bytes, std::uint32_t size) {
    return size <= 3072 && take({kBinary, 0, {bytes, size}});
  }
  // The type is the first of `size` bytes; nothing may follow it.
  bool visit_ext(const char* bytes, std::uint32_t size) {
    return size == 1 && static_cast<signed char>(*bytes) >= 0 && take({});
  }
  bool start_array(std::uint32_t items) {
    if (items > 256 || !take({})) return false;
    return ++depth <= kMaxPlainDepth;
  }
  bool end_array() { return leave(); }
  bool start_map(std::uint32_t entries) {
    if (entries > kMaxPlainEntries || (depth > 0 && !take({}))) return false;
    is_map = true;
    return ++depth <= kMaxPlainDepth;
  }
  bool end_map() { return leave(); }
  bool start_map_key() {
    is_key = true;
    return true;
  }

  bool leave() {
    --depth;
    return true;
  }

  // Values deep within are of no interest; of an entry, the value that begins it is taken.
  bool take(const PlainValue& value) {
    if (!is_map) return false;
    if (is_key) {
      is_key = false;
      if (depth == 1) header.entries_[header.count_].name = value.bytes;
      return depth == 1 ? value.type == kString : value.type == kString || value.type == kBinary;
    }
    if (depth == 1) header.entries_[header.count_++].value = value;
    return true;
  }

  PlainHeader& header;
  std::size_t depth = 0;
  bool is_map = false;
  bool is_key = false;
};

bool PlainHeader::read(std::span<const std::byte> bytes) {
  count_ = 0;
  if (bytes.size() > kMaxPlainNbytes) return false;
  HeaderVisitor visitor(*this);
  std::size_t end = 0;
  try {
    const auto* const data = reinterpret_cast<const char*>(bytes.data());
    if (!msgpack::parse(data, bytes.size(), end, visitor)) return false;
  } catch (const msgpack::ext_size_overflow&) {  // an extension of 4 GiB
    return false;
  }
  return end == bytes.size() && has_valid_fields();
}

const PlainValue* PlainHeader::find(std::string_view field) const {
  for (std::size_t i = count_; i > 0; --i) {
    if (entries_[i - 1].name == field) return &entries_[i - 1].value;
  }
  return nullptr;
}

bool PlainHeader::has_valid_fields() const {
  const PlainValue* const version = find("v");
  const PlainValue* const named_verb = find("t");
  if (version == nullptr || version->type != kInteger || version->number != 1) return false;
  if (named_verb == nullptr || named_verb->type != kString) return false;
  const std::span<const PlainField> fields = fields_of(named_verb->bytes);
  if (fields.empty()) return false;
  for (const PlainField& field : fields) {
    const PlainValue* const value = find(field.name);
    if (value == nullptr ? !field.default_number : !fits(field, *value)) return false;
    if (field.name == "codec" && !std::ranges::count(kPlainCodecs, value->bytes)) return false;
    if (field.name == "answer" && value != nullptr && !value->bytes.empty() &&
        !std::ranges::count(kPlainCodecs, value->bytes)) {
      return false;
    }
  }
  return std::all_of(entries_.begin(), entries_.begin() + count_, [&](const PlainEntry& entry) {
    return entry.name == "v" || entry.name == "t" ||
           std::ranges::count(fields, entry.name, &PlainField::name) == 1;
  });
}

std::uint64_t PlainHeader::number(std::string_view field) const {
  if (const PlainValue* const value = find(field)) return value->number;
  for (const PlainField& known : fields_of(verb())) {
    if (known.name == field) return known.default_number.value_or(0);
  }
  return 0;
}

std::string_view PlainHeader::bytes(std::string_view field) const {
  const PlainValue* const value = find(field);
  return value ? value->bytes : std::string_view();
}

PlainBytes PlainHeader::written() const {
  const std::span<const PlainField> fields = fields_of(verb());
  const auto is_written = [&](const PlainField& field) {
    if (!field.default_number) return true;
    return field.type == kBinary || field.type == kString
               ? !bytes(field.name).empty()
               : number(field.name) != *field.default_number;
  };
  PlainBytes out;
  msgpack::packer<PlainBytes> packer(out);
  const auto pack_text = [&](std::string_view text) {
    packer.pack_str(static_cast<std::uint32_t>(text.size()));
    packer.pack_str_body(text.data(), static_cast<std::uint32_t>(text.size()));
  };
  packer.pack_map(static_cast<std::uint32_t>(2 + std::ranges::count_if(fields, is_written)));
  pack_text("v");
  packer.pack_uint64(1);
  pack_text("t");
  pack_text(verb());
  for (const PlainField& field : fields) {
    if (!is_written(field)) continue;
    const std::string_view value = bytes(field.name);
    pack_text(field.name);
    if (field.type == kString) pack_text(value);
    if (field.type == kInteger) packer.pack_uint64(number(field.name));
    if (field.type == kBool) number(field.name) ? packer.pack_true() : packer.pack_false();
    if (field.type != kBinary) continue;
    packer.pack_bin(static_cast<std::uint32_t>(value.size()));
    packer.pack_bin_body(value.data(), static_cast<std::uint32_t>(value.size()));
  }
  return out;
}

void PlainBytes::write(const char* bytes, std::size_t n) {
  std::memcpy(bytes_.data() + nbytes_, bytes, n);
  nbytes_ += n;
}

std::optional<std::size_t> plain_cut(std::string_view text, std::size_t most) {
  std::size_t characters = 0;
  std::optional<std::size_t> cut;
  for (std::size_t at = 0; at < text.size();) {
    if (characters++ == most) cut = at;
    const std::size_t nbytes = character_at(text, at);
    if (nbytes == 0) return std::nullopt;
    at += nbytes;
  }
  return cut.value_or(text.size());
}

}  // namespace leash::fuzz
