// A flat array of bytes that starts on a cache line.
#pragma once

#include <cstddef>
#include <memory>

namespace leash {

inline constexpr std::size_t kCacheLine = 64;

inline constexpr std::size_t round_up_to_cache_line(std::size_t nbytes) {
  return (nbytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

class Slab {
 public:
  // One allocation, not written to: a page of a big slab costs nothing before it has values.
  // Throws std::bad_alloc.
  explicit Slab(std::size_t nbytes);

  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace leash
