#include "fuzz/builder.h"

namespace leash::fuzz {
namespace {

constexpr std::string_view kNames[] = {
    "v",       "t",       "worker", "step",      "chunk",     "incarnation", "codec",
    "samples", "absent",  "table",  "answer",    "chunks",    "slab",        "nbytes",
    "has",     "version", "lag",    "staleness", "unchanged", "taken",       "number",
    "code",    "text",    "clock",  "role",      ""};
constexpr std::string_view kWords[] = {"f32",  "f64",       "bf16",   "f16", "int8",  "topk",
                                       "push", "push_pull", "params", "ok",  "error", "beat"};
constexpr std::string_view kCharacters[] = {"a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
                                            "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
                                            "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
                                            // these are no characters
                                            "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
                                            "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5", "\x80"};
inline constexpr std::size_t kValidCharacters = 10;

}  // namespace

void Builder::put_name() { put_text(draws_.of(kNames)); }

void Builder::put_sized(std::uint64_t number, std::size_t nbytes, std::uint8_t form) {
  out_.push_back(form);
  for (std::size_t i = nbytes; i > 0; --i) {
    out_.push_back(static_cast<std::uint8_t>(number >> 8 * (i - 1)));
  }
}

void Builder::put_wide_size(std::size_t size, std::uint8_t form, std::size_t nbytes) {
  while (nbytes < 4 && (size >> 8 * nbytes != 0 || draws_.one_in(4))) nbytes *= 2, ++form;
  put_sized(size, nbytes, form);
}

void Builder::put_size(std::size_t size, std::size_t fix_most, std::uint8_t fix, std::uint8_t form,
                       std::size_t nbytes) {
  if (size > fix_most || draws_.one_in(8)) return put_wide_size(size, form, nbytes);
  out_.push_back(static_cast<std::uint8_t>(fix | size));
}

void Builder::put_text(std::string_view text) {
  put_size(text.size(), 31, 0xa0, 0xd9, 1);
  out_.append(text.data(), text.size());
}

void Builder::put_map(std::size_t entries) { put_size(entries, 15, 0x80, 0xde, 2); }

void Builder::put_any_number() {
  // Where the next width begins, and the number below it.
  static constexpr std::size_t kWidths[] = {0, 7, 8, 15, 16, 31, 32, 63};
  const std::uint64_t edge = (std::uint64_t{1} << draws_.of(kWidths)) - draws_.below(2);
  put_number(draws_.one_in(2) ? edge : draws_.next() >> draws_.below(64));
}

void Builder::put_number(std::uint64_t number) {
  if (number < 128 && !draws_.one_in(4)) {
    return out_.push_back(static_cast<std::uint8_t>(number));
  }
  std::size_t nbytes = 1;
  std::uint8_t form = draws_.one_in(4) ? 0xd0 : 0xcc;
  const std::size_t sign = form == 0xd0 && !draws_.one_in(8) ? 1 : 0;
  while (nbytes < 8 && (number >> (8 * nbytes - sign) != 0 || draws_.one_in(4))) {
    nbytes *= 2, ++form;
  }
  put_sized(number, nbytes, form);
}

void Builder::put_characters() {
  static constexpr std::size_t kLengths[] = {0,   1,   31,  32,  63,  64, 65,
                                             128, 255, 256, 511, 512, 513};
  const std::size_t length = draws_.one_in(8) ? draws_.of(kLengths) : draws_.below(20);
  const std::string_view one = kCharacters[draws_.below(kValidCharacters)];
  const std::string_view other = draws_.one_in(4) ? draws_.of(kCharacters) : std::string_view();
  const std::size_t other_at = draws_.one_in(2) ? 0 : length;
  put_size(length * one.size() + other.size(), 31, 0xa0, 0xd9, 1);
  for (std::size_t i = 0; i <= length; ++i) {
    if (i == other_at) out_.append(other.data(), other.size());
    if (i < length) out_.append(one.data(), one.size());
  }
}

void Builder::put_bits() {
  static constexpr std::size_t kLengths[] = {0, 1, 255, 256, 3071, 3072, 3073};
  const std::size_t length = draws_.one_in(32) ? draws_.of(kLengths) : draws_.below(12);
  put_wide_size(length, 0xc4, 1);
  for (std::size_t i = 0; i < length; ++i) {
    out_.push_back(static_cast<std::uint8_t>(draws_.next()));
  }
}

void Builder::put_bool() { out_.push_back(draws_.one_in(2) ? 0xc2 : 0xc3); }

void Builder::put_anything(std::size_t depth) {
  switch (depth == 0 ? draws_.below(10) : draws_.one_in(16) ? 12 : draws_.below(12)) {
    case 0:
      return put_any_number();
    case 1:
      return put_bool();
    case 2:
      return put_text(draws_.of(kWords));
    case 3:
      return put_characters();
    case 4:
      return put_bits();
    case 5:  // an integer below 0
      return out_.push_back(static_cast<std::uint8_t>(0xe0 | draws_.below(32)));
    case 6:  // a float
      return draws_.one_in(2) ? put_sized(draws_.next(), 4, 0xca)
                              : put_sized(draws_.next(), 8, 0xcb);
    case 7:
      return out_.push_back(draws_.one_in(2) ? 0xc0 : 0xc1);
    case 8:  // an extension of no bytes, then its type
      put_wide_size(0, 0xc7, 1);
      return out_.push_back(static_cast<std::uint8_t>(draws_.next()));
    case 9:  // an extension of one byte
      return put_sized(draws_.next(), 2, 0xd4);
    case 10:
      return put_items(depth);
    case 11:
      return put_entries(depth);
    default:
      return put_nested(depth);
  }
}

void Builder::put(Draw draw) {
  if (draws_.one_in(32)) return put_anything(3);
  switch (draw) {
    case Draw::kNumber:
      return put_any_number();
    case Draw::kBool:
      return put_bool();
    case Draw::kCodec:
      return put_text(kWords[draws_.below(draws_.one_in(16) ? std::size(kWords) : 6)]);
    case Draw::kText:
      return put_characters();
    case Draw::kBits:
      return put_bits();
  }
}

void Builder::put_items(std::size_t depth) {
  static constexpr std::size_t kSizes[] = {0, 1, 2, 15, 16, 255, 256, 257};
  const std::size_t items = draws_.one_in(4) ? draws_.of(kSizes) : draws_.below(4);
  put_size(items, 15, 0x90, 0xdc, 2);
  for (std::size_t i = 0; i < items; ++i) items > 4 ? put_bool() : put_anything(depth - 1);
}

void Builder::put_entries(std::size_t depth) {
  static constexpr std::size_t kSizes[] = {0, 1, 15, 16, 63, 64, 65};
  const std::size_t entries = draws_.one_in(4) ? draws_.of(kSizes) : draws_.below(4);
  put_map(entries);
  for (std::size_t i = 0; i < entries; ++i) {
    draws_.one_in(8) ? put_anything(1) : put_name();
    entries > 4 ? put_bool() : put_anything(depth - 1);
  }
}

void Builder::put_nested(std::size_t depth) {
  static constexpr std::size_t kDepths[] = {2, 31, 32, 33, 1021, 1022, 1023, 1024, 1025};
  const bool are_maps = draws_.one_in(2);
  const std::size_t levels = draws_.of(kDepths);
  for (std::size_t i = 0; i < levels; ++i) {
    out_.push_back(are_maps ? 0x81 : 0x91);
    if (are_maps) out_.push_back(0xa0);
  }
  put_anything(depth - 1);
}

}  // namespace leash::fuzz
