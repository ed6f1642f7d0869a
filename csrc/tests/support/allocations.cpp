#include "tests/support/allocations.h"

#include <cstdlib>
#include <new>

namespace leash::tests {
namespace {

thread_local std::size_t count = 0;

void* allocate_or_null(std::size_t nbytes,
                       std::size_t alignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__) noexcept {
  ++count;
  const std::size_t size = (nbytes + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, size == 0 ? alignment : size);
}

void* allocate(std::size_t nbytes, std::size_t alignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__) {
  void* const memory = allocate_or_null(nbytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

std::size_t allocations() { return count; }

}  // namespace leash::tests

using leash::tests::allocate;
using leash::tests::allocate_or_null;

// All forms: a sanitizer brings its own of each, which would not count, nor agree with these.

void* operator new(std::size_t nbytes) { return allocate(nbytes); }
void* operator new[](std::size_t nbytes) { return allocate(nbytes); }
void* operator new(std::size_t nbytes, std::align_val_t alignment) {
  return allocate(nbytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t nbytes, std::align_val_t alignment) {
  return allocate(nbytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t nbytes, const std::nothrow_t&) noexcept {
  return allocate_or_null(nbytes);
}
void* operator new[](std::size_t nbytes, const std::nothrow_t&) noexcept {
  return allocate_or_null(nbytes);
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
