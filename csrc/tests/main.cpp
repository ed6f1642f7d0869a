// All tests, with the kernels that LEASH_ISA names. Ends with 77 if this processor has none such.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <exception>
#include <iostream>

#include "core/kernels/cpu.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  try {
    std::cout << "kernels: " << leash::name_of(leash::instruction_set()) << '\n';
  } catch (const std::exception& error) {
    std::cout << error.what() << '\n';
    return kSkipped;
  }
  return doctest::Context(argc, argv).run();
}
