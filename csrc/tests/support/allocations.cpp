#include "tests/support/allocations.h"

#include <cstdlib>
#include <new>

namespace leash::tests {
namespace {

thread_local std::size_t count = 0;

void* allocate(std::size_t nbytes, std::size_t alignment) {
  ++count;
  const std::size_t size = (nbytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, size == 0 ? alignment : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

std::size_t allocations() { return count; }

}  // namespace leash::tests

// The forms for arrays and those that do not throw call these.
void* operator new(std::size_t nbytes) {
  return leash::tests::allocate(nbytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t nbytes, std::align_val_t alignment) {
  return leash::tests::allocate(nbytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
