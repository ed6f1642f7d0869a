#include "fuzz/mutate_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "core/wire/msgpack.h"
#include "fuzz/builder.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace leash::fuzz {
namespace {

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
constexpr DrawnField kPushPull[] = {{"incarnation", Draw::kNumber}, {"codec", Draw::kCodec},
                                    {"samples", Draw::kNumber},     {"absent", Draw::kBits},
                                    {"table", Draw::kNumber},       {"chunks", Draw::kNumber},
                                    {"slab", Draw::kNumber},        {"nbytes", Draw::kNumber},
                                    {"has", Draw::kNumber},         {"answer", Draw::kCodec}};
constexpr DrawnField kParams[] = {{"codec", Draw::kCodec},   {"version", Draw::kNumber},
                                  {"lag", Draw::kNumber},    {"staleness", Draw::kNumber},
                                  {"chunks", Draw::kNumber}, {"unchanged", Draw::kBool}};
constexpr DrawnField kOk[] = {{"taken", Draw::kBool}, {"number", Draw::kNumber}};
constexpr DrawnField kError[] = {
    {"code", Draw::kText}, {"text", Draw::kText}, {"clock", Draw::kNumber}};

constexpr std::pair<std::string_view, std::span<const DrawnField>> kVerbs[] = {
    {"push", kPush}, {"push_pull", kPushPull}, {"params", kParams}, {"ok", kOk}, {"error", kError}};

// A map as its entries, each a key and a value.
class Entries {
 public:
  Entries(Draws& draws, Bytes& memory) : draws_(draws), memory_(memory) { memory_.clear(); }

  // Takes those of a map. Returns whether this is one.
  bool take(std::span<const std::uint8_t> header) {
    if (header.empty() || header[0] < 0x80 || header[0] > 0x8f) return false;
    memory_.append(header.data(), header.size());
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
    insert(count_, build_named("v", [](Builder& builder) { builder.put_number(1); }));
    insert(count_, build_named("t", [name = verb](Builder& builder) { builder.put_text(name); }));
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
      header.append(memory_.data() + entry.begin, entry.end - entry.begin);
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
    insert(count_, build_named(field.name, [&](Builder& builder) { builder.put(field.draw); }));
  }

  template <typename PutName, typename PutValue>
  Entry build(PutName&& put_name, PutValue&& put_value) {
    Entry entry{memory_.size(), 0, 0};
    Builder builder(draws_, memory_);
    put_name(builder);
    entry.value = memory_.size();
    put_value(builder);
    entry.end = memory_.size();
    return entry;
  }

  template <typename PutValue>
  Entry build_named(std::string_view name, PutValue&& put_value) {
    return build([&](Builder& builder) { builder.put_text(name); }, put_value);
  }

  Entry any() {
    Entry entry = build([](Builder& builder) { builder.put_name(); },
                        [](Builder& builder) { builder.put_anything(2); });
    if (draws_.one_in(32)) entry.begin = entry.value;  // whatever comes next becomes its value
    return entry;
  }

  Entry with_any_value(const Entry& entry) {
    Entry other{memory_.size(), 0, 0};
    memory_.append(memory_.data() + entry.begin, entry.value - entry.begin);
    other.value = memory_.size();
    Builder(draws_, memory_).put_anything(2);
    other.end = memory_.size();
    return other;
  }

  Draws& draws_;
  Bytes& memory_;
  std::array<Entry, 80> entries_;
  std::size_t count_ = 0;
};

}  // namespace

std::size_t mutate_header(std::uint8_t* data, std::size_t size, std::size_t most,
                          std::uint64_t seed) {
  Draws draws(seed);
  if (draws.one_in(4)) return LLVMFuzzerMutate(data, size, most);
  static Bytes memory;
  Entries entries(draws, memory);
  if (draws.one_in(4) || !entries.take({data, size})) {
    Entries fresh(draws, memory);
    fresh.make();
    if (draws.one_in(4)) fresh.shuffle();
    if (draws.one_in(4)) fresh.change();
    return fresh.write(data, most);
  }
  for (bool more = true; more; more = draws.one_in(3)) entries.change();
  return entries.write(data, most);
}

}  // namespace leash::fuzz
