// The numbers of a numpy array, which is never copied or converted.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace leash::bindings {

// As an argument, with py::arg(...).noconvert(): only an array of this dtype, contiguous.
template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// Checks what array_t does not: that the array is aligned.
template <typename T>
const T* aligned(const T* values, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(values) % alignof(T) == 0) return values;
  throw std::invalid_argument(std::string(name) + ": expected aligned memory");
}

// Also that it can be written to, and has n values.
template <typename T>
T* values_of(Array<T>& array, pybind11::ssize_t n, const char* name) {
  T* const values = array.mutable_data();
  aligned(values, name);
  if (array.size() == n) return values;
  throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(n) +
                              " values, got " + std::to_string(array.size()));
}

}  // namespace leash::bindings
