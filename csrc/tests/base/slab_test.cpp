#include "core/base/slab.h"

#include <doctest/doctest.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "tests/support/refusals.h"

using leash::kCacheLine;
using leash::kHugePage;
using leash::kWorthHugePages;
using leash::Slab;
using leash::tests::Madvise;

namespace {

bool begins_at(const Slab& slab, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(slab.data()) % alignment == 0;
}

// A sanitizer sees a byte that is not the slab's.
void use_all(const Slab& slab, std::size_t nbytes) {
  std::memset(slab.data(), 1, nbytes);
  CHECK(slab.data()[nbytes - 1] == std::byte{1});
}

}  // namespace

TEST_CASE("a slab of any size begins with a cache line") {
  for (const std::size_t nbytes : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, kHugePage}) {
    const Slab slab(nbytes);
    CHECK(begins_at(slab, kCacheLine));
    if (nbytes > 0) use_all(slab, nbytes);
  }
}

#ifdef MADV_HUGEPAGE

TEST_CASE("a large slab asks for huge pages, for as many as it fills") {
  for (const std::size_t rest : {std::size_t{0}, std::size_t{100}, kHugePage - kCacheLine}) {
    const Madvise system(false);
    const std::size_t nbytes = kWorthHugePages + rest;
    const Slab slab(nbytes);
    CHECK(begins_at(slab, kHugePage));
    REQUIRE(system.asked().size() == 1);
    CHECK(system.asked().front() == Madvise::Advice(slab.data(), kWorthHugePages, MADV_HUGEPAGE));
    use_all(slab, nbytes);
  }
}

TEST_CASE("a small slab asks for nothing, and takes no huge page") {
  const Madvise system(false);
  const Slab slab(kWorthHugePages - kCacheLine);
  CHECK(system.asked().empty());
}

TEST_CASE("a slab without huge pages is as good as one with them") {
  const Madvise system(true);
  const Slab slab(kWorthHugePages);
  CHECK(system.asked().size() == 1);
  use_all(slab, kWorthHugePages);
}

#endif
