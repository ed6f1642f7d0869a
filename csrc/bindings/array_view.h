// The numbers of a numpy array, which is never copied or converted.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace leash::bindings {

// An argument of this type, with py::arg(...).noconvert(), accepts only a contiguous array of this
// dtype.
template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// Returns `values`. Throws ValueError unless they are aligned, which array_t does not check.
template <typename T>
const T* checked_aligned(const T* values, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(values) % alignof(T) == 0) return values;
  throw std::invalid_argument(std::string(name) + ": expected aligned memory");
}

// Returns the values, to be changed. Throws ValueError unless the array is aligned, can be written
// to and has n values.
template <typename T>
T* checked_values(Array<T>& array, pybind11::ssize_t n, const char* name) {
  T* const values = array.mutable_data();
  checked_aligned(values, name);
  if (array.size() == n) return values;
  throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(n) +
                              " values, got " + std::to_string(array.size()));
}

}  // namespace leash::bindings
