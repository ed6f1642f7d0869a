// A flat array of bytes that starts on a cache line, and on huge pages if it is large.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace leash {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kHugePage = 2 << 20;
// What does not fill the last huge page stays on small ones, so that a slab takes no more memory
// than its own bytes. Below this size that may be most of it.
inline constexpr std::size_t kWorthHugePages = 2 * kHugePage;

inline constexpr std::size_t round_up_to_cache_line(std::size_t nbytes) {
  return (nbytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

class Slab {
 public:
  // Allocates once and does not write: the system gives a page of a large slab memory only when it
  // gets its first values. From kWorthHugePages on it begins with a huge page, and the system is
  // asked for such pages, of which one translation of addresses covers 2 MiB. Where the system has
  // none, the slab is as good as ever. Throws std::bad_alloc.
  explicit Slab(std::size_t nbytes);

  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace leash
