#include "fuzz/mutate_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <limits>
#include <span>
#include <string_view>
#include <utility>

#include "core/wire/msgpack.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace leash::fuzz {
namespace {

// Memory of a mutation. It is never allocated, which would cost more than all else; what finds no
// room is left out.
class Bytes {
 public:
  void clear() { size_ = 0; }
  std::size_t size() const { return size_; }
  std::uint8_t back() const { return bytes_[size_ - 1]; }
  const std::uint8_t* data() const { return bytes_.data(); }
  void push_back(std::uint8_t byte) {
    if (size_ < bytes_.size()) bytes_[size_++] = byte;
  }
  void append(const void* from, std::size_t n) {
    n = std::min(n, bytes_.size() - size_);
    if (n > 0) std::memcpy(bytes_.data() + size_, from, n);
    size_ += n;
  }

 private:
  std::array<std::uint8_t, 32768> bytes_;
  std::size_t size_ = 0;
};

// SplitMix64 (Steele et al. 2014): libFuzzer gives a seed for each mutation.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  std::size_t below(std::size_t n) { return next() % n; }
  bool one_in(std::size_t n) { return below(n) == 0; }
  template <typename Choices>
  const auto& of(const Choices& choices) {
    return choices[below(std::size(choices))];
  }

 private:
  std::uint64_t state_;
};

enum class Draw { kNumber, kBool, kCodec, kText, kBits };

struct DrawnField {
  std::string_view name;
  Draw draw;
};

constexpr DrawnField kCommon[] = {
    {"worker", Draw::kNumber}, {"step", Draw::kNumber}, {"chunk", Draw::kNumber}};
constexpr DrawnField kPush[] = {{"incarnation", Draw::kNumber},
                                {"codec", Draw::kCodec},
                                {"samples", Draw::kNumber},
                                {"absent", Draw::kBits},
                                {"table", Draw::kNumber}};
constexpr DrawnField kPushPull[] = {
    {"incarnation", Draw::kNumber}, {"codec", Draw::kCodec},   {"samples", Draw::kNumber},
    {"absent", Draw::kBits},        {"table", Draw::kNumber},  {"chunks", Draw::kNumber},
    {"slab", Draw::kNumber},        {"nbytes", Draw::kNumber}, {"has", Draw::kNumber}};
constexpr DrawnField kParams[] = {{"codec", Draw::kCodec},   {"version", Draw::kNumber},
                                  {"lag", Draw::kNumber},    {"staleness", Draw::kNumber},
                                  {"chunks", Draw::kNumber}, {"unchanged", Draw::kBool}};
constexpr DrawnField kOk[] = {{"taken", Draw::kBool}, {"number", Draw::kNumber}};
constexpr DrawnField kError[] = {
    {"code", Draw::kText}, {"text", Draw::kText}, {"clock", Draw::kNumber}};

constexpr std::pair<std::string_view, std::span<const DrawnField>> kVerbs[] = {
    {"push", kPush}, {"push_pull", kPushPull}, {"params", kParams}, {"ok", kOk}, {"error", kError}};

constexpr std::string_view kNames[] = {"v",           "t",         "worker",    "step",   "chunk",
                                       "incarnation", "codec",     "samples",   "absent", "table",
                                       "chunks",      "slab",      "nbytes",    "has",    "version",
                                       "lag",         "staleness", "unchanged", "taken",  "number",
                                       "code",        "text",      "clock",     "role",   ""};
constexpr std::string_view kWords[] = {"f32",  "f64",       "bf16",   "f16", "int8",  "topk",
                                       "push", "push_pull", "params", "ok",  "error", "beat"};
constexpr std::string_view kCharacters[] = {"a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80",
                                            "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
                                            "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
                                            // these are no characters
                                            "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
                                            "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5", "\x80"};
inline constexpr std::size_t kValidCharacters = 10;

// Pieces of msgpack, in any of the forms that a value has.
class Builder {
 public:
  Builder(Draws& draws, Bytes& out) : draws_(draws), out_(out) {}

  void put_sized(std::uint64_t number, std::size_t nbytes, std::uint8_t form) {
    out_.push_back(form);
    for (std::size_t i = nbytes; i > 0; --i) {
      out_.push_back(static_cast<std::uint8_t>(number >> 8 * (i - 1)));
    }
  }

  // A size in one of the forms of 1, 2 or 4 bytes that hold it.
  void put_wide_size(std::size_t size, std::uint8_t form, std::size_t nbytes) {
    while (nbytes < 4 && (size >> 8 * nbytes != 0 || draws_.one_in(4))) nbytes *= 2, ++form;
    put_sized(size, nbytes, form);
  }

  // The same, or in one byte with the form, if it is at most `fix_most`.
  void put_size(std::size_t size, std::size_t fix_most, std::uint8_t fix, std::uint8_t form,
                std::size_t nbytes) {
    if (size > fix_most || draws_.one_in(8)) return put_wide_size(size, form, nbytes);
    out_.push_back(static_cast<std::uint8_t>(fix | size));
  }

  void put_text(std::string_view text) {
    put_size(text.size(), 31, 0xa0, 0xd9, 1);
    out_.append(text.data(), text.size());
  }

  void put_map(std::size_t entries) { put_size(entries, 15, 0x80, 0xde, 2); }

  void put_number() {
    static constexpr std::uint64_t kEdges[] = {0,
                                               1,
                                               127,
                                               128,
                                               255,
                                               256,
                                               65535,
                                               65536,
                                               0x7fffffff,
                                               0x80000000,
                                               0xffffffff,
                                               0x100000000,
                                               0x7fffffffffffffff,
                                               0x8000000000000000,
                                               0xffffffffffffffff};
    put_number(draws_.one_in(2) ? draws_.of(kEdges) : draws_.next() >> draws_.below(64));
  }

  // In any width, also of signed integers, that holds it.
  void put_number(std::uint64_t number) {
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

  void put_characters() {
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

  void put_bits() {
    static constexpr std::size_t kLengths[] = {0, 1, 255, 256, 3071, 3072, 3073};
    const std::size_t length = draws_.one_in(32) ? draws_.of(kLengths) : draws_.below(12);
    put_wide_size(length, 0xc4, 1);
    for (std::size_t i = 0; i < length; ++i) {
      out_.push_back(static_cast<std::uint8_t>(draws_.next()));
    }
  }

  void put_bool() { out_.push_back(draws_.one_in(2) ? 0xc2 : 0xc3); }

  // Any value at all, with others in it down to `depth`.
  void put_anything(std::size_t depth) {
    switch (depth == 0 ? draws_.below(10) : draws_.one_in(16) ? 12 : draws_.below(12)) {
      case 0:
        return put_number();
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

  void put(Draw draw) {
    if (draws_.one_in(32)) return put_anything(3);
    switch (draw) {
      case Draw::kNumber:
        return put_number();
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

 private:
  void put_items(std::size_t depth) {
    static constexpr std::size_t kSizes[] = {0, 1, 2, 15, 16, 255, 256, 257};
    const std::size_t items = draws_.one_in(4) ? draws_.of(kSizes) : draws_.below(4);
    put_size(items, 15, 0x90, 0xdc, 2);
    for (std::size_t i = 0; i < items; ++i) items > 4 ? put_bool() : put_anything(depth - 1);
  }

  void put_entries(std::size_t depth) {
    static constexpr std::size_t kSizes[] = {0, 1, 15, 16, 63, 64, 65};
    const std::size_t entries = draws_.one_in(4) ? draws_.of(kSizes) : draws_.below(4);
    put_map(entries);
    for (std::size_t i = 0; i < entries; ++i) {
      draws_.one_in(8) ? put_anything(1) : put_text(draws_.of(kNames));
      entries > 4 ? put_bool() : put_anything(depth - 1);
    }
  }

  // Many arrays or maps of one, each in the one before.
  void put_nested(std::size_t depth) {
    static constexpr std::size_t kDepths[] = {2, 31, 32, 33, 1021, 1022, 1023, 1024, 1025};
    const bool are_maps = draws_.one_in(2);
    const std::size_t levels = draws_.of(kDepths);
    for (std::size_t i = 0; i < levels; ++i) {
      out_.push_back(are_maps ? 0x81 : 0x91);
      if (are_maps) out_.push_back(0xa0);
    }
    put_anything(depth - 1);
  }

  Draws& draws_;
  Bytes& out_;
};

// A map as its entries, each a key and a value.
class Entries {
 public:
  explicit Entries(Draws& draws) : draws_(draws) {}

  // Takes those of a map. Returns whether this is one.
  bool take(std::span<const std::uint8_t> header) {
    if (header.empty() || header[0] < 0x80 || header[0] > 0x8f) return false;
    memory.append(header.data(), header.size());
    MsgpackReader reader(std::as_bytes(header.subspan(1)));
    const auto at = [&] { return header.size() - reader.left(); };
    for (int left = header[0] - 0x80; left > 0; --left) {
      MsgpackValue value;
      Entry entry{at(), 0, 0};
      if (!reader.read(value) || !reader.skip_items(value, 1)) return false;
      entry.value = at();
      if (!reader.read(value) || !reader.skip_items(value, 1)) return false;
      entry.end = at();
      insert(count_, entry);
    }
    return true;
  }

  // Makes those of a header that is right, or very nearly.
  void make() {
    const auto& [verb, own_fields] = draws_.of(kVerbs);
    insert(count_, build("v", [](Builder& builder) { builder.put_number(1); }));
    insert(count_, build("t", [name = verb](Builder& builder) { builder.put_text(name); }));
    for (const DrawnField& field : kCommon) put(field);
    for (const DrawnField& field : own_fields) {
      if (!draws_.one_in(8)) put(field);
    }
  }

  void change() {
    if (count_ == 0) return insert(0, any());
    const std::size_t at = draws_.below(count_);
    switch (draws_.below(6)) {
      case 0:
        return erase(at);
      case 1:  // once more, before or behind
        return insert(draws_.below(count_ + 1), entries_[at]);
      case 2:
        return std::swap(entries_[at], entries_[draws_.below(count_)]);
      case 3:
        return insert(draws_.below(count_ + 1), any());
      case 4:  // with another value
        entries_[at] = with_any_value(entries_[at]);
        return;
      default:  // with another value before it, which then counts for nothing
        return insert(draws_.below(at + 1), with_any_value(entries_[at]));
    }
  }

  void shuffle() {
    for (std::size_t i = count_; i > 1; --i) std::swap(entries_[i - 1], entries_[draws_.below(i)]);
  }

  // Writes the map, as much as there is room for, and returns its size.
  std::size_t write(std::uint8_t* data, std::size_t most) {
    static Bytes header;
    header.clear();
    Builder(draws_, header).put_map(count_);
    for (const Entry& entry : std::span(entries_).first(count_)) {
      header.append(memory.data() + entry.begin, entry.end - entry.begin);
    }
    const std::size_t nbytes = std::min(header.size(), most);
    std::memcpy(data, header.data(), nbytes);
    return nbytes;
  }

 private:
  struct Entry {  // in the memory
    std::size_t begin;
    std::size_t value;
    std::size_t end;
  };

  void insert(std::size_t at, const Entry& entry) {
    if (count_ == entries_.size()) return;
    const Entry inserted = entry;  // which may be one of those that are moved
    std::copy_backward(entries_.begin() + at, entries_.begin() + count_,
                       entries_.begin() + count_ + 1);
    entries_[at] = inserted;
    ++count_;
  }

  void erase(std::size_t at) {
    std::copy(entries_.begin() + at + 1, entries_.begin() + count_, entries_.begin() + at);
    --count_;
  }

  void put(const DrawnField& field) {
    insert(count_, build(field.name, [&](Builder& builder) { builder.put(field.draw); }));
  }

  template <typename Put>
  Entry build(std::string_view name, Put&& put_value) {
    Entry entry{memory.size(), 0, 0};
    Builder builder(draws_, memory);
    builder.put_text(name);
    entry.value = memory.size();
    put_value(builder);
    entry.end = memory.size();
    return entry;
  }

  Entry any() {
    Entry entry = build(draws_.of(kNames), [](Builder& builder) { builder.put_anything(2); });
    if (draws_.one_in(32)) entry.begin = entry.value;  // whatever comes next becomes its value
    return entry;
  }

  Entry with_any_value(const Entry& entry) {
    Entry other{memory.size(), 0, 0};
    memory.append(memory.data() + entry.begin, entry.value - entry.begin);
    other.value = memory.size();
    Builder(draws_, memory).put_anything(2);
    other.end = memory.size();
    return other;
  }

  static Bytes memory;
  Draws& draws_;
  std::array<Entry, 80> entries_;
  std::size_t count_ = 0;

 public:
  static void forget() { memory.clear(); }
};

Bytes Entries::memory;

}  // namespace

std::size_t mutate_header(std::uint8_t* data, std::size_t size, std::size_t most,
                          std::uint64_t seed) {
  Draws draws(seed);
  if (draws.one_in(4)) return LLVMFuzzerMutate(data, size, most);
  Entries::forget();
  Entries entries(draws);
  if (draws.one_in(4) || !entries.take({data, size})) {
    Entries fresh(draws);
    fresh.make();
    if (draws.one_in(4)) fresh.shuffle();
    if (draws.one_in(4)) fresh.change();
    return fresh.write(data, most);
  }
  for (bool more = true; more; more = draws.one_in(3)) entries.change();
  return entries.write(data, most);
}

}  // namespace leash::fuzz
