// A flat array of bytes that starts on a cache line.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace leash {

inline constexpr std::size_t kCacheLine = 64;

inline constexpr std::size_t round_up_to_cache_line(std::size_t nbytes) {
  return (nbytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

class Slab {
 public:
  // Allocates once and does not write: the system gives a page of a large slab memory only when it
  // gets its first values. Throws std::bad_alloc.
  explicit Slab(std::size_t nbytes) {
    const std::size_t size = round_up_to_cache_line(std::max<std::size_t>(nbytes, 1));
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kCacheLine, size)));
    if (data_ == nullptr) throw std::bad_alloc();
  }

  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace leash
