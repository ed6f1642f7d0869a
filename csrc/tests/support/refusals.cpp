#include "tests/support/refusals.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>

namespace leash::tests {
namespace {

thread_local std::optional<std::size_t> threads_left;
std::optional<int> refused_parameter;
std::vector<int> asked_parameters;

}  // namespace

ThreadLimit::ThreadLimit(std::size_t threads) { threads_left = threads; }
ThreadLimit::~ThreadLimit() { threads_left.reset(); }

Mallopt::Mallopt(std::optional<int> refused) {
  refused_parameter = refused;
  asked_parameters.clear();
}
Mallopt::~Mallopt() { refused_parameter.reset(); }
const std::vector<int>& Mallopt::asked() const { return asked_parameters; }

}  // namespace leash::tests

// glibc declares both as functions that do not throw.
extern "C" {

__attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                          const pthread_attr_t* attributes,
                                                          void* (*start)(void*),
                                                          void* argument) noexcept {
  auto& left = leash::tests::threads_left;
  if (left) {
    if (*left == 0) return EAGAIN;
    --*left;
  }
  // The next one is that of a sanitizer, or of the C library.
  static const auto next =
      reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return next(thread, attributes, start, argument);
}

__attribute__((visibility("default"))) int mallopt(int parameter, int) noexcept {
  leash::tests::asked_parameters.push_back(parameter);
  return leash::tests::refused_parameter == parameter ? 0 : 1;
}
}
