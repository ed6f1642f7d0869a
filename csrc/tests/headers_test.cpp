// Headers are written in the bytes of docs/wire-format.md, and read from whatever bytes come.
// tests/unit/core/test_headers.py compares both with leash.ps.wire.frames.

#include "core/wire/headers.h"

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/wire/msgpack.h"
#include "core/wire/utf8.h"
#include "tests/support/allocations.h"

using namespace leash;
using namespace leash::tests;
using namespace std::string_literals;
using namespace std::string_view_literals;

namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string text_of(const HeaderBytes& header) {
  return {reinterpret_cast<const char*>(header.bytes().data()), header.bytes().size()};
}

std::string key(std::string_view name) {
  return static_cast<char>(0xa0 + name.size()) + std::string(name);
}

std::string map(std::initializer_list<std::string> entries) {
  std::string header(1, static_cast<char>(0x80 + entries.size()));
  for (const std::string& entry : entries) header += entry;
  return header;
}

std::string field(std::string_view name, std::string_view value) {
  return key(name) + std::string(value);
}

const std::string kVersionField = field("v", "\x01");
const std::string kVerbOk = field("t", key("ok"));
const std::string kWorker = field("worker", "\x02");
const std::string kStep = field("step", "\x03");
const std::string kChunk = field("chunk", "\x04");
const std::string kTaken = field("taken", "\xc3");

// An ok for worker 2, with one more field, which comes last.
std::string ok_with(const std::string& entry) {
  return map({kVersionField, kVerbOk, kWorker, kStep, kChunk, kTaken, entry});
}

bool is_ok(std::string_view header) {
  return std::holds_alternative<OkHeader>(read_answer(bytes_of(header)));
}

// So many arrays of one, each in the one before, with a number in the innermost.
std::string nested(std::size_t arrays) { return std::string(arrays, '\x91') + '\x00'; }

// A string or binary of so many bytes, whose size takes two.
std::string sized(char form, std::size_t nbytes) {
  return std::string(1, form) + static_cast<char>(nbytes >> 8) + static_cast<char>(nbytes) +
         std::string(nbytes, 'x');
}

// A number whose last value counts, after another one that must only be well formed.
std::string ok_after(std::string_view value) {
  return map({field("number", value), kVersionField, kVerbOk, kWorker, kStep, kChunk, kTaken,
              field("number", "\x05")});
}

}  // namespace

TEST_CASE("an ok is written as the example of the wire format has it") {
  const std::string written = text_of(HeaderBytes(OkHeader{1, 0, 0, true, 0}));
  CHECK(written ==
        "\x86\xa1v\x01\xa1t\xa2ok\xa6worker\x01\xa4step\x00\xa5"
        "chunk\x00\xa5taken\xc3"sv);
}

TEST_CASE("fields that have their defaults are left out, and read as the defaults") {
  PushHeader push;
  push.wants_parameters = true;
  const std::string written = text_of(HeaderBytes(push));
  for (const std::string_view name :
       {"chunks", "slab", "nbytes", "absent", "has", "table", "answer"}) {
    CHECK(written.find(name) == std::string::npos);
  }
  const std::optional<PushHeader> read = read_push(bytes_of(written));
  REQUIRE(read);
  CHECK(read->chunks == 1);
  CHECK(read->absent.empty());
}

TEST_CASE("every field of a push_pull comes back as it was written") {
  const std::string absent("\x00\xff\x80", 3);
  PushHeader push;
  push.worker = 0xffffffff;
  push.incarnation = 0x7fffffffffffffff;
  push.step = 65536;
  push.chunk = 255;
  push.codec = WireCodec::kTopk;
  push.samples = 128;
  push.absent = absent;
  push.table = 127;
  push.wants_parameters = true;
  push.chunks = 16;
  push.slab = 1;
  push.nbytes = 65535;
  push.has = 0x100000000;
  push.answer = WireCodec::kBf16;
  const std::string written = text_of(HeaderBytes(push));
  const std::optional<PushHeader> read = read_push(bytes_of(written));
  REQUIRE(read);
  CHECK(read->worker == push.worker);
  CHECK(read->incarnation == push.incarnation);
  CHECK(read->step == push.step);
  CHECK(read->chunk == push.chunk);
  CHECK(read->codec == push.codec);
  CHECK(read->samples == push.samples);
  CHECK(read->absent == push.absent);
  CHECK(read->table == push.table);
  CHECK(read->wants_parameters);
  CHECK(read->chunks == push.chunks);
  CHECK(read->slab == push.slab);
  CHECK(read->nbytes == push.nbytes);
  CHECK(read->has == push.has);
  CHECK(read->answer == push.answer);
}

TEST_CASE("a push has none of the fields of a segment, and refuses them") {
  PushHeader push;
  push.chunks = 7;
  push.nbytes = 7;
  std::string written = text_of(HeaderBytes(push));
  CHECK(written.find("chunks") == std::string::npos);
  const std::optional<PushHeader> read = read_push(bytes_of(written));
  REQUIRE(read);
  CHECK_FALSE(read->wants_parameters);
  written[0] = static_cast<char>(written[0] + 1);
  CHECK_FALSE(read_push(bytes_of(written + field("chunks", "\x01"))));
  CHECK(read_push(bytes_of(written + field("table", "\x01"))));
}

TEST_CASE("fields may come in any order and integers in any width") {
  const std::string header =
      map({kTaken, field("chunk", "\xd3\x00\x00\x00\x00\xff\xff\xff\xff"sv),
           field("step", "\xcf\x00\x00\x00\x00\x00\x00\x00\x03"sv), field("worker", "\xd0\x02"),
           kVerbOk, field("v", "\xce\x00\x00\x00\x01"sv)});
  const Answer answer = read_answer(bytes_of(header));
  const auto* const ok = std::get_if<OkHeader>(&answer);
  REQUIRE(ok);
  CHECK(ok->worker == 2);
  CHECK(ok->step == 3);
  CHECK(ok->chunk == 0xffffffff);
}

TEST_CASE("of a field that comes twice the last value counts") {
  const Answer answer = read_answer(bytes_of(ok_after("\xc0")));
  const auto* const ok = std::get_if<OkHeader>(&answer);
  REQUIRE(ok);
  CHECK(ok->number == 5);
  CHECK_FALSE(is_ok(
      map({kVersionField, kVerbOk, kWorker, kStep, kChunk, kTaken, field("worker", "\xc0")})));
}

TEST_CASE("a value of another type or beyond its range makes a header nothing") {
  CHECK(is_ok(ok_with(field("number", "\x00"sv))));
  for (const std::string_view value :
       {"\xc0"sv, "\xc3"sv, "\xff"sv, "\xd0\xff"sv, "\xca\x3f\x80\x00\x00"sv,
        "\xcf\x80\x00\x00\x00\x00\x00\x00\x00"sv,
        "\xa1"
        "1"sv,
        "\xc4\x01\x01"sv, "\x91\x01"sv, "\x80"sv, "\xc7\x00\x01"sv}) {
    CHECK_FALSE(is_ok(ok_with(field("number", value))));
  }
  CHECK_FALSE(is_ok(ok_with(field("taken", "\x01"))));
  CHECK_FALSE(is_ok(ok_with(field("worker", "\xcf\x00\x00\x00\x01\x00\x00\x00\x00"sv))));
  CHECK_FALSE(is_ok(ok_with(field("v", "\x02"))));
  CHECK_FALSE(is_ok(ok_with(field("v", "\xc3"))));
  CHECK_FALSE(is_ok(ok_with(field("clock", "\x01"))));
}

TEST_CASE("a header that is cut anywhere, or goes on behind its end, is nothing") {
  const std::string header = ok_with(field("number", "\xcd\x01\x00"sv));
  CHECK(is_ok(header));
  CHECK_FALSE(is_ok(header + '\x00'));
  for (std::size_t nbytes = 0; nbytes < header.size(); ++nbytes) {
    // Memory of exactly this size, so that a sanitizer sees every read beyond it.
    const std::vector<char> cut(header.begin(),
                                header.begin() + static_cast<std::ptrdiff_t>(nbytes));
    CHECK_FALSE(is_ok({cut.data(), nbytes}));
    CHECK_FALSE(read_push(bytes_of({cut.data(), nbytes})));
  }
}

TEST_CASE("values that do not count must still be well formed") {
  CHECK(is_ok(ok_after("\xc7\x00\x7f"sv)));
  CHECK_FALSE(is_ok(ok_after("\xc7\x00\x80"sv)));  // a type below 0
  CHECK_FALSE(is_ok(ok_after("\xd4\x01\x01"sv)));  // an extension of a byte
  CHECK_FALSE(is_ok(ok_after("\xc1")));
  CHECK(is_ok(ok_after("\x82\xa0\x01\xc4\x00\x91\xc0"sv)));
  CHECK_FALSE(is_ok(ok_after("\x81\x01\x01"sv)));  // a key that is a number
  CHECK_FALSE(is_ok(ok_after("\xa1\xff"sv)));
}

TEST_CASE("arrays, maps and texts have the limits of frames.py") {
  const auto array_of = [](std::size_t items) {
    return "\xdc"s + static_cast<char>(items >> 8) + static_cast<char>(items) +
           std::string(items, '\x00');
  };
  const auto map_of = [](std::size_t entries) {
    std::string value = "\xde"s + '\x00' + static_cast<char>(entries);
    for (std::size_t i = 0; i < entries; ++i) value += "\xa0\x00"sv;
    return value;
  };
  CHECK(is_ok(ok_after(array_of(kMaxArrayItems))));
  CHECK_FALSE(is_ok(ok_after(array_of(kMaxArrayItems + 1))));
  CHECK(is_ok(ok_after(map_of(kMaxMapEntries))));
  CHECK_FALSE(is_ok(ok_after(map_of(kMaxMapEntries + 1))));
  CHECK(is_ok(ok_after(sized('\xda', kMaxStringNbytes))));
  CHECK_FALSE(is_ok(ok_after(sized('\xda', kMaxStringNbytes + 1))));
  CHECK(is_ok(ok_after(sized('\xc5', kMaxBinaryNbytes))));
  CHECK_FALSE(is_ok(ok_after(sized('\xc5', kMaxBinaryNbytes + 1))));
}

TEST_CASE("arrays in one another end at msgpack's depth") {
  CHECK(is_ok(ok_after(nested(kMaxDepth - 1))));  // the header itself is the outermost
  CHECK_FALSE(is_ok(ok_after(nested(kMaxDepth))));
}

TEST_CASE("a header of more than 4096 bytes is nothing") {
  const auto header_with = [](std::size_t nbytes) {  // in two values that do not count
    return map({field("number", sized('\xc5', 1000)), field("number", sized('\xc5', nbytes)),
                kVersionField, kVerbOk, kWorker, kStep, kChunk, kTaken, field("number", "\x05")});
  };
  const std::size_t most = kMaxHeaderNbytes - header_with(0).size();
  REQUIRE(most < kMaxBinaryNbytes);
  CHECK(is_ok(header_with(most)));
  CHECK_FALSE(is_ok(header_with(most + 1)));
}

TEST_CASE("a codec that the core does not know makes a header nothing") {
  PushHeader push;
  const std::string written = text_of(HeaderBytes(push));
  std::string other = written;
  other.replace(other.find("f32"), 3, "f31");
  CHECK(read_push(bytes_of(written)));
  CHECK_FALSE(read_push(bytes_of(other)));
}

TEST_CASE("every codec has a name, a form and one in which its pushes are answered") {
  const auto check = [](const char* name, WireCodec codec, Codec form, const char* reply) {
    CHECK(name_of(codec) == name);
    CHECK(wire_codec(name) == codec);
    CHECK(core_codec(codec) == form);
    CHECK(name_of(reply_codec(codec)) == reply);
  };
  check("f32", WireCodec::kF32, Codec::kRaw, "f32");
  check("f64", WireCodec::kF64, Codec::kRaw, "f64");
  check("bf16", WireCodec::kBf16, Codec::kBf16, "bf16");
  check("f16", WireCodec::kF16, Codec::kF16, "f16");
  check("int8", WireCodec::kInt8, Codec::kInt8, "f32");
  check("topk", WireCodec::kTopk, Codec::kTopk, "f32");
  CHECK(raw_codec(Dtype::kF32) == WireCodec::kF32);
  CHECK(raw_codec(Dtype::kF64) == WireCodec::kF64);
}

TEST_CASE("a text is counted in characters, and cut between two of them") {
  for (const std::string_view character :
       {"a"sv, "\xc3\xa9"sv, "\xe2\x82\xac"sv, "\xf0\x9f\x98\x80"sv}) {
    std::string text;
    for (std::size_t i = 0; i <= kMaxErrorText; ++i) text += character;
    ErrorHeader error;
    error.code = "resync";
    error.text = text;
    const std::string written = text_of(HeaderBytes(error));
    const Answer answer = read_answer(bytes_of(written));
    const auto* const read = std::get_if<ErrorHeader>(&answer);
    REQUIRE(read);
    CHECK(read->text == std::string_view(text).substr(0, kMaxErrorText * character.size()));
    CHECK(read->code == "resync");
  }
}

TEST_CASE("UTF-8 is refused where Python refuses it") {
  for (const std::string_view text :
       {"\x7f"sv, "\xc2\x80"sv, "\xdf\xbf"sv, "\xe0\xa0\x80"sv, "\xed\x9f\xbf"sv, "\xee\x80\x80"sv,
        "\xef\xbf\xbf"sv, "\xf0\x90\x80\x80"sv, "\xf4\x8f\xbf\xbf"sv, "\x00"sv}) {
    CHECK(is_utf8(text));
    CHECK(count_characters(text) == 1);
    CHECK(is_utf8("12345678"s + std::string(text) + "12345678"));
  }
  for (const std::string_view text :
       {"\x80"sv, "\xc1\xbf"sv, "\xc2"sv, "\xc2\x7f"sv, "\xe0\x9f\xbf"sv, "\xed\xa0\x80"sv,
        "\xe1\x80"sv, "\xe1\x80\x7f"sv, "\xf0\x8f\xbf\xbf"sv, "\xf4\x90\x80\x80"sv,
        "\xf1\x80\x80"sv, "\xf5\x80\x80\x80"sv, "\xff"sv}) {
    CHECK_FALSE(is_utf8(text));
    CHECK_FALSE(is_utf8("12345678"s + std::string(text)));
  }
}

TEST_CASE("reading and writing a header allocates nothing") {
  const std::string header = ok_after(nested(kMaxDepth - 1));
  const std::size_t before = allocations();
  const bool was_read = is_ok(header);
  const HeaderBytes written(ParamsHeader{});
  CHECK(allocations() == before);
  CHECK(was_read);
  CHECK(written.bytes().size() > 0);
}

TEST_CASE("a writer without room writes nothing more, and says so") {
  std::array<std::byte, 4> out{};
  MsgpackWriter writer(out);
  writer.write(std::uint64_t{300});
  CHECK(writer.had_room());
  CHECK(writer.nbytes() == 3);
  writer.write_string("long");
  CHECK_FALSE(writer.had_room());
  writer.write(true);
  CHECK(writer.nbytes() == 3);
}
