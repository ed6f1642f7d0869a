#include "tests/support/refusals.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace leash::tests {
namespace {

thread_local std::optional<std::size_t> threads_left;
std::optional<int> refused_parameter;
std::vector<int> asked_parameters;
thread_local std::optional<bool> advice_refused;  // none: it goes to the system
thread_local std::vector<Madvise::Advice> asked_advice;

}  // namespace

ThreadLimit::ThreadLimit(std::size_t threads) { threads_left = threads; }
ThreadLimit::~ThreadLimit() { threads_left.reset(); }

Mallopt::Mallopt(std::optional<int> refused) {
  refused_parameter = refused;
  asked_parameters.clear();
}
Mallopt::~Mallopt() { refused_parameter.reset(); }
const std::vector<int>& Mallopt::asked() const { return asked_parameters; }

Madvise::Madvise(bool refuses) {
  advice_refused = refuses;
  asked_advice.clear();
}
Madvise::~Madvise() { advice_refused.reset(); }
const std::vector<Madvise::Advice>& Madvise::asked() const { return asked_advice; }

}  // namespace leash::tests

// glibc declares them as functions that do not throw.
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

__attribute__((visibility("default"))) int madvise(void* begin, std::size_t nbytes,
                                                   int advice) noexcept {
  static const auto next = reinterpret_cast<decltype(&madvise)>(dlsym(RTLD_NEXT, "madvise"));
  if (!leash::tests::advice_refused) return next(begin, nbytes, advice);
  leash::tests::asked_advice.emplace_back(begin, nbytes, advice);
  if (!*leash::tests::advice_refused) return 0;
  errno = EINVAL;
  return -1;
}
}
