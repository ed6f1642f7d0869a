#include "core/wire/headers.h"

#include <cassert>
#include <initializer_list>
#include <limits>

#include "core/wire/msgpack.h"
#include "core/wire/utf8.h"

namespace leash {
namespace {

inline constexpr std::uint64_t kFormatVersion = 1;
inline constexpr std::uint64_t kMaxCount = std::numeric_limits<std::int64_t>::max();
inline constexpr std::size_t kMaxWord = 64;  // characters

inline constexpr std::string_view kPush = "push";
inline constexpr std::string_view kPushPull = "push_pull";
inline constexpr std::string_view kParams = "params";
inline constexpr std::string_view kOk = "ok";
inline constexpr std::string_view kError = "error";

struct NamedCodec {
  std::string_view name;
  Codec codec;
  WireCodec reply;
};

// By WireCodec. int8 and topk leave something out, so parameters never travel in them.
inline constexpr std::array<NamedCodec, 6> kCodecs{{
    {"f32", Codec::kRaw, WireCodec::kF32},
    {"f64", Codec::kRaw, WireCodec::kF64},
    {"bf16", Codec::kBf16, WireCodec::kBf16},
    {"f16", Codec::kF16, WireCodec::kF16},
    {"int8", Codec::kInt8, WireCodec::kF32},
    {"topk", Codec::kTopk, WireCodec::kF32},
}};

// All fields of these verbs, in an order that each of them keeps.
enum Field : std::uint8_t {
  kV,
  kT,
  kCode,
  kText,
  kWorker,
  kIncarnation,
  kStep,
  kChunk,
  kCodec,
  kSamples,
  kVersion,
  kLag,
  kStaleness,
  kChunks,
  kSlab,
  kNbytes,
  kAbsent,
  kHas,
  kTable,
  kAnswer,
  kUnchanged,
  kTaken,
  kNumber,
  kClock,
  kFieldCount,
};

inline constexpr std::array<std::string_view, kFieldCount> kFieldNames{
    "v",      "t",       "code",    "text",   "worker",    "incarnation", "step",   "chunk",
    "codec",  "samples", "version", "lag",    "staleness", "chunks",      "slab",   "nbytes",
    "absent", "has",     "table",   "answer", "unchanged", "taken",       "number", "clock"};

using FieldSet = std::uint32_t;

constexpr FieldSet set_of(std::initializer_list<Field> fields) {
  FieldSet set = 0;
  for (const Field field : fields) set |= FieldSet{1} << field;
  return set;
}

// The fields of each verb that a header must have, and those that it may have beside them.
inline constexpr FieldSet kPushRequired =
    set_of({kV, kT, kWorker, kIncarnation, kStep, kChunk, kCodec, kSamples});
inline constexpr FieldSet kPushOptional = set_of({kAbsent, kTable});
inline constexpr FieldSet kPushPullOptional =
    kPushOptional | set_of({kChunks, kSlab, kNbytes, kHas, kAnswer});
inline constexpr FieldSet kParamsRequired =
    set_of({kV, kT, kWorker, kStep, kChunk, kCodec, kVersion, kLag, kStaleness});
inline constexpr FieldSet kParamsOptional = set_of({kChunks, kUnchanged});
inline constexpr FieldSet kOkRequired = set_of({kV, kT, kWorker, kStep, kChunk, kTaken});
inline constexpr FieldSet kOkOptional = set_of({kNumber});
inline constexpr FieldSet kErrorRequired =
    set_of({kV, kT, kCode, kText, kWorker, kStep, kChunk, kClock});

// The field of this name; kFieldCount if it has none. It is looked for from `likely` on.
std::size_t field_named(std::string_view name, std::size_t likely) {
  for (std::size_t i = likely; i < kFieldCount; ++i) {
    if (kFieldNames[i] == name) return i;
  }
  for (std::size_t i = 0; i < likely; ++i) {
    if (kFieldNames[i] == name) return i;
  }
  return kFieldCount;
}

// What a header says: of every field the last value. get() returns whether it is of the right type
// and within its range; it leaves `out` as it is where the header does not have the field.
class Fields {
 public:
  // Returns false for anything but a whole map with names of fields, and version 1.
  bool read(std::span<const std::byte> header) {
    if (header.size() > kMaxHeaderNbytes) return false;
    MsgpackReader reader(header);
    MsgpackValue map;
    if (!reader.read(map) || map.kind != MsgpackKind::kMap) return false;
    std::size_t likely = 0;
    for (std::uint64_t entry = 0; entry < map.number; ++entry) {
      MsgpackValue key;
      if (!reader.read(key) || key.kind != MsgpackKind::kString) return false;
      const std::size_t field = field_named(key.bytes, likely);
      if (field == kFieldCount) return false;
      if (!reader.read(values_[field]) || !reader.skip_items(values_[field], 1)) return false;
      present_ |= FieldSet{1} << field;
      likely = field + 1;
    }
    return reader.left() == 0 && has(kV) && is(kV, MsgpackKind::kUnsigned) &&
           values_[kV].number == kFormatVersion;
  }

  bool is_verb(std::string_view verb) const {
    return has(kT) && is(kT, MsgpackKind::kString) && values_[kT].bytes == verb;
  }

  bool are(FieldSet required, FieldSet optional) const {
    return (present_ & required) == required && (present_ & ~(required | optional)) == 0;
  }

  bool get(Field field, std::uint64_t& out) const { return get_number(field, kMaxCount, out); }
  bool get(Field field, std::uint32_t& out) const { return get_number(field, UINT32_MAX, out); }

  bool get(Field field, bool& out) const {
    if (!has(field)) return true;
    out = values_[field].number != 0;
    return is(field, MsgpackKind::kBool);
  }

  bool get(Field field, WireCodec& out) const {
    if (!has(field)) return true;
    if (!is(field, MsgpackKind::kString)) return false;
    const std::optional<WireCodec> codec = wire_codec(values_[field].bytes);
    if (codec) out = *codec;
    return codec.has_value();
  }

  // An empty one counts as left out.
  bool get(Field field, std::optional<WireCodec>& out) const {
    if (!has(field)) return true;
    if (!is(field, MsgpackKind::kString)) return false;
    out = wire_codec(values_[field].bytes);
    return out.has_value() || values_[field].bytes.empty();
  }

  bool get_text(Field field, std::size_t most_characters, std::string_view& out) const {
    if (!has(field)) return true;
    out = values_[field].bytes;
    return is(field, MsgpackKind::kString) && count_characters(out) <= most_characters;
  }

  bool get_bits(Field field, std::string_view& out) const {
    if (!has(field)) return true;
    out = values_[field].bytes;
    return is(field, MsgpackKind::kBinary) && out.size() <= kMaxAbsentNbytes;
  }

 private:
  bool has(Field field) const { return (present_ >> field & 1) != 0; }
  bool is(Field field, MsgpackKind kind) const { return values_[field].kind == kind; }

  template <typename Number>
  bool get_number(Field field, std::uint64_t most, Number& out) const {
    if (!has(field)) return true;
    const MsgpackValue& value = values_[field];
    out = static_cast<Number>(value.number);
    return value.kind == MsgpackKind::kUnsigned && value.number <= most;
  }

  std::array<MsgpackValue, kFieldCount> values_;
  FieldSet present_ = 0;
};

Answer read_params(const Fields& fields) {
  ParamsHeader header;
  const bool is_valid =
      fields.are(kParamsRequired, kParamsOptional) && fields.get(kWorker, header.worker) &&
      fields.get(kStep, header.step) && fields.get(kChunk, header.chunk) &&
      fields.get(kCodec, header.codec) && fields.get(kVersion, header.version) &&
      fields.get(kLag, header.lag) && fields.get(kStaleness, header.staleness) &&
      fields.get(kChunks, header.chunks) && fields.get(kUnchanged, header.unchanged);
  return is_valid ? Answer(header) : Answer();
}

Answer read_ok(const Fields& fields) {
  OkHeader header;
  const bool is_valid = fields.are(kOkRequired, kOkOptional) &&
                        fields.get(kWorker, header.worker) && fields.get(kStep, header.step) &&
                        fields.get(kChunk, header.chunk) && fields.get(kTaken, header.taken) &&
                        fields.get(kNumber, header.number);
  return is_valid ? Answer(header) : Answer();
}

Answer read_error(const Fields& fields) {
  ErrorHeader header;
  const bool is_valid = fields.are(kErrorRequired, 0) &&
                        fields.get_text(kCode, kMaxWord, header.code) &&
                        fields.get_text(kText, kMaxErrorText, header.text) &&
                        fields.get(kWorker, header.worker) && fields.get(kStep, header.step) &&
                        fields.get(kChunk, header.chunk) && fields.get(kClock, header.clock);
  return is_valid ? Answer(header) : Answer();
}

// Writes a header field by field. The byte that counts the fields comes last: they are few enough
// for one byte.
class FieldWriter {
 public:
  FieldWriter(std::span<std::byte> out, std::string_view verb)
      : map_(out.first(1)), fields_(out.subspan(1)) {
    put_number(kV, kFormatVersion);
    put_text(kT, verb);
  }

  void put_number(Field field, std::uint64_t number) {
    put_name(field);
    fields_.write(number);
  }
  void put_number_unless(std::uint64_t its_default, Field field, std::uint64_t number) {
    if (number != its_default) put_number(field, number);
  }
  void put_bool(Field field, bool value) {
    put_name(field);
    fields_.write(value);
  }
  void put_text(Field field, std::string_view text) {
    put_name(field);
    fields_.write_string(text);
  }
  void put_bits(Field field, std::string_view bits) {
    put_name(field);
    fields_.write_binary(bits);
  }

  // Returns how many bytes the header has.
  std::size_t finish() {
    map_.write_map(count_);
    assert(fields_.had_room());
    return map_.nbytes() + fields_.nbytes();
  }

 private:
  void put_name(Field field) {
    fields_.write_string(kFieldNames[field]);
    ++count_;
  }

  MsgpackWriter map_;
  MsgpackWriter fields_;
  std::size_t count_ = 0;
};

}  // namespace

std::string_view name_of(WireCodec codec) { return kCodecs[static_cast<std::size_t>(codec)].name; }

std::optional<WireCodec> wire_codec(std::string_view name) {
  for (std::size_t i = 0; i < kCodecs.size(); ++i) {
    if (kCodecs[i].name == name) return static_cast<WireCodec>(i);
  }
  return std::nullopt;
}

Codec core_codec(WireCodec codec) { return kCodecs[static_cast<std::size_t>(codec)].codec; }

WireCodec reply_codec(WireCodec codec) { return kCodecs[static_cast<std::size_t>(codec)].reply; }

WireCodec raw_codec(Dtype dtype) {
  return dtype == Dtype::kF32 ? WireCodec::kF32 : WireCodec::kF64;
}

bool carries(WireCodec codec, Dtype dtype, bool is_parameters) {
  if (core_codec(codec) == Codec::kRaw) return codec == raw_codec(dtype);
  return dtype == Dtype::kF32 && is_parameters;
}

std::optional<PushHeader> read_push(std::span<const std::byte> bytes) {
  Fields fields;
  if (!fields.read(bytes)) return std::nullopt;
  PushHeader header;
  header.wants_parameters = fields.is_verb(kPushPull);
  if (!header.wants_parameters && !fields.is_verb(kPush)) return std::nullopt;
  const bool is_valid =
      fields.are(kPushRequired, header.wants_parameters ? kPushPullOptional : kPushOptional) &&
      fields.get(kWorker, header.worker) && fields.get(kIncarnation, header.incarnation) &&
      fields.get(kStep, header.step) && fields.get(kChunk, header.chunk) &&
      fields.get(kCodec, header.codec) && fields.get(kSamples, header.samples) &&
      fields.get(kChunks, header.chunks) && fields.get(kSlab, header.slab) &&
      fields.get(kNbytes, header.nbytes) && fields.get_bits(kAbsent, header.absent) &&
      fields.get(kHas, header.has) && fields.get(kTable, header.table) &&
      fields.get(kAnswer, header.answer);
  if (!is_valid) return std::nullopt;
  return header;
}

Answer read_answer(std::span<const std::byte> bytes) {
  Fields fields;
  if (!fields.read(bytes)) return {};
  if (fields.is_verb(kParams)) return read_params(fields);
  if (fields.is_verb(kOk)) return read_ok(fields);
  if (fields.is_verb(kError)) return read_error(fields);
  return {};
}

HeaderBytes::HeaderBytes(const PushHeader& header) {
  FieldWriter writer(bytes_, header.wants_parameters ? kPushPull : kPush);
  writer.put_number(kWorker, header.worker);
  writer.put_number(kIncarnation, header.incarnation);
  writer.put_number(kStep, header.step);
  writer.put_number(kChunk, header.chunk);
  writer.put_text(kCodec, name_of(header.codec));
  writer.put_number(kSamples, header.samples);
  if (header.wants_parameters) {
    writer.put_number_unless(1, kChunks, header.chunks);
    writer.put_number_unless(0, kSlab, header.slab);
    writer.put_number_unless(0, kNbytes, header.nbytes);
  }
  if (!header.absent.empty()) writer.put_bits(kAbsent, header.absent);
  if (header.wants_parameters) writer.put_number_unless(0, kHas, header.has);
  writer.put_number_unless(0, kTable, header.table);
  if (header.wants_parameters && header.answer) writer.put_text(kAnswer, name_of(*header.answer));
  nbytes_ = writer.finish();
}

HeaderBytes::HeaderBytes(const ParamsHeader& header) {
  FieldWriter writer(bytes_, kParams);
  writer.put_number(kWorker, header.worker);
  writer.put_number(kStep, header.step);
  writer.put_number(kChunk, header.chunk);
  writer.put_text(kCodec, name_of(header.codec));
  writer.put_number(kVersion, header.version);
  writer.put_number(kLag, header.lag);
  writer.put_number(kStaleness, header.staleness);
  writer.put_number_unless(1, kChunks, header.chunks);
  if (header.unchanged) writer.put_bool(kUnchanged, true);
  nbytes_ = writer.finish();
}

HeaderBytes::HeaderBytes(const OkHeader& header) {
  FieldWriter writer(bytes_, kOk);
  writer.put_number(kWorker, header.worker);
  writer.put_number(kStep, header.step);
  writer.put_number(kChunk, header.chunk);
  writer.put_bool(kTaken, header.taken);
  writer.put_number_unless(0, kNumber, header.number);
  nbytes_ = writer.finish();
}

HeaderBytes::HeaderBytes(const ErrorHeader& header) {
  FieldWriter writer(bytes_, kError);
  writer.put_text(kCode, header.code);
  writer.put_text(kText, first_characters(header.text, kMaxErrorText));
  writer.put_number(kWorker, header.worker);
  writer.put_number(kStep, header.step);
  writer.put_number(kChunk, header.chunk);
  writer.put_number(kClock, header.clock);
  nbytes_ = writer.finish();
}

}  // namespace leash
