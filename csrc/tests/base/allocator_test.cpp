#include "core/base/allocator.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "tests/support/refusals.h"

using leash::keep_freed_memory;
using leash::tests::Mallopt;

#ifdef __GLIBC__

TEST_CASE("a process keeps its freed memory if malloc agrees to everything") {
  const Mallopt malloc_options(std::nullopt);
  CHECK(keep_freed_memory());
  CHECK(malloc_options.asked().size() == 3);
}

TEST_CASE("whatever malloc refuses, it is said, and the rest is still asked for") {
  std::vector<int> parameters;
  {
    const Mallopt malloc_options(std::nullopt);
    keep_freed_memory();
    parameters = malloc_options.asked();
  }
  for (const int parameter : parameters) {
    const Mallopt malloc_options(parameter);
    CHECK_FALSE(keep_freed_memory());
    CHECK(malloc_options.asked() == parameters);
  }
}

#else

TEST_CASE("another C library's malloc is left as it is") { CHECK_FALSE(keep_freed_memory()); }

#endif
