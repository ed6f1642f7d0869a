// The checks of settings: each throws std::invalid_argument, with one wording for all, unless the
// value of the setting called `name` fits.
#pragma once

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace leash {

template <typename Value>
void require(bool fits, const char* name, Value value, const char* expected) {
  if (fits) return;
  std::ostringstream message;
  message << name << ": expected " << expected << ", got " << value;
  throw std::invalid_argument(message.str());
}

inline void require_non_negative(const char* name, double value) {
  require(std::isfinite(value) && value >= 0.0, name, value, "a finite number of at least 0");
}

inline void require_below_one(const char* name, double value) {
  require(value >= 0.0 && value < 1.0, name, value, "a number from 0 to below 1");
}

}  // namespace leash
