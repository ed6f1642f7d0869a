// Anything at all is read as a header, by the core and by another library for msgpack with the
// checks of docs/wire-format.md written once more; both must give the same. What was read is
// written again, and must be what that library writes. Run by tools/fuzz.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "core/wire/headers.h"
#include "fuzz/mutate_header.h"
#include "fuzz/plain_header.h"

using namespace leash;
using namespace leash::fuzz;

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

bool is_same(const PlainHeader& plain, std::string_view field, std::uint64_t core) {
  return plain.number(field) == core;
}

bool are_same(const PlainHeader& plain, const PushHeader& core) {
  const bool are_common_same =
      is_same(plain, "worker", core.worker) && is_same(plain, "incarnation", core.incarnation) &&
      is_same(plain, "step", core.step) && is_same(plain, "chunk", core.chunk) &&
      plain.bytes("codec") == name_of(core.codec) && is_same(plain, "samples", core.samples) &&
      plain.bytes("absent") == core.absent && is_same(plain, "table", core.table);
  if (!core.wants_parameters) return plain.verb() == "push" && are_common_same;
  return plain.verb() == "push_pull" && are_common_same && is_same(plain, "chunks", core.chunks) &&
         is_same(plain, "slab", core.slab) && is_same(plain, "nbytes", core.nbytes) &&
         is_same(plain, "has", core.has) &&
         plain.bytes("answer") == (core.answer ? name_of(*core.answer) : std::string_view());
}

bool are_same(const PlainHeader& plain, const ParamsHeader& core) {
  return plain.verb() == "params" && is_same(plain, "worker", core.worker) &&
         is_same(plain, "step", core.step) && is_same(plain, "chunk", core.chunk) &&
         plain.bytes("codec") == name_of(core.codec) && is_same(plain, "version", core.version) &&
         is_same(plain, "lag", core.lag) && is_same(plain, "staleness", core.staleness) &&
         is_same(plain, "chunks", core.chunks) && is_same(plain, "unchanged", core.unchanged);
}

bool are_same(const PlainHeader& plain, const OkHeader& core) {
  return plain.verb() == "ok" && is_same(plain, "worker", core.worker) &&
         is_same(plain, "step", core.step) && is_same(plain, "chunk", core.chunk) &&
         is_same(plain, "taken", core.taken) && is_same(plain, "number", core.number);
}

bool are_same(const PlainHeader& plain, const ErrorHeader& core) {
  return plain.verb() == "error" && plain.bytes("code") == core.code &&
         plain.bytes("text") == core.text && is_same(plain, "worker", core.worker) &&
         is_same(plain, "step", core.step) && is_same(plain, "chunk", core.chunk) &&
         is_same(plain, "clock", core.clock);
}

// `plain` is null where the library, or a check, refuses the header, or reads another one.
template <typename Header>
void compare(const PlainHeader* plain, const Header& core) {
  require(plain != nullptr, "The core read what the library refuses.");
  require(are_same(*plain, core), "The core read other fields than the library.");
  const HeaderBytes written(core);
  const PlainBytes expected = plain->written();
  require(std::ranges::equal(written.bytes(), expected.bytes()),
          "The core wrote other bytes than the library.");
}

// Nothing was read.
void compare(const PlainHeader* plain, std::monostate) {
  require(plain == nullptr, "The core refused what the library reads.");
}

// An error with this text, whatever its length, says as many characters of it as it may.
void compare_cut(std::string_view text) {
  const std::optional<std::size_t> cut = plain_cut(text, kMaxErrorText);
  if (!cut) return;  // not UTF-8
  ErrorHeader error;
  error.text = text;
  const HeaderBytes written(error);
  const Answer answer = read_answer(written.bytes());
  const auto* const read = std::get_if<ErrorHeader>(&answer);
  require(read != nullptr && read->text == text.substr(0, *cut), "A text was cut elsewhere.");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> header(reinterpret_cast<const std::byte*>(data), size);
  static PlainHeader plain;  // it is large, and would be made anew for each input
  const bool is_header = plain.read(header);
  const bool is_push = is_header && (plain.verb() == "push" || plain.verb() == "push_pull");
  const PlainHeader* const plain_push = is_push ? &plain : nullptr;
  const PlainHeader* const plain_answer = is_header && !is_push ? &plain : nullptr;
  if (const std::optional<PushHeader> push = read_push(header)) {
    compare(plain_push, *push);
  } else {
    compare(plain_push, std::monostate());
  }
  std::visit([&](const auto& answer) { compare(plain_answer, answer); }, read_answer(header));
  compare_cut({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned int seed) {
  return mutate_header(data, size, most, seed);
}
