// Made-up msgpack: values of every type, in any of the forms that a value has.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>

namespace leash::fuzz {

// Memory of a mutation. It is never allocated, which would cost more than all else; what finds no
// room is left out.
class Bytes {
 public:
  void clear() { size_ = 0; }
  std::size_t size() const { return size_; }
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

// What a field holds, most of the time.
enum class Draw { kNumber, kBool, kCodec, kText, kBits };

// Writes behind what `out` has.
class Builder {
 public:
  Builder(Draws& draws, Bytes& out) : draws_(draws), out_(out) {}

  void put(Draw draw);
  void put_anything(std::size_t depth);  // with others in it down to `depth`
  void put_text(std::string_view text);
  void put_name();                        // of a field, of whatever verb
  void put_number(std::uint64_t number);  // in any width, also of signed integers, that holds it
  void put_map(std::size_t entries);      // they come next

 private:
  void put_sized(std::uint64_t number, std::size_t nbytes, std::uint8_t form);
  // A size in one of the forms of 1, 2 or 4 bytes that hold it.
  void put_wide_size(std::size_t size, std::uint8_t form, std::size_t nbytes);
  // The same, or in one byte with the form, if it is at most `fix_most`.
  void put_size(std::size_t size, std::size_t fix_most, std::uint8_t fix, std::uint8_t form,
                std::size_t nbytes);
  void put_any_number();
  void put_bool();
  void put_characters();
  void put_bits();
  void put_items(std::size_t depth);
  void put_entries(std::size_t depth);
  void put_nested(std::size_t depth);  // many arrays or maps of one, each in the one before

  Draws& draws_;
  Bytes& out_;
};

}  // namespace leash::fuzz
