// How often this thread has asked for memory.
#pragma once

#include <cstddef>

namespace leash::tests {

// The calls of operator new in this thread so far. The test program replaces that operator.
std::size_t allocations();

// How many of them `use` makes.
template <typename Use>
std::size_t allocations_of(Use&& use) {
  const std::size_t before = allocations();
  use();
  return allocations() - before;
}

}  // namespace leash::tests
