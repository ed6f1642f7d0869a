// How the checks of settings word what is wrong.
#pragma once

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace leash {

// Throws std::invalid_argument, naming the value, unless it fits.
inline void require(bool fits, const char* name, double value, const char* expected) {
  if (fits) return;
  std::ostringstream message;
  message << name << ": expected " << expected << ", got " << value;
  throw std::invalid_argument(message.str());
}

inline void require_non_negative(const char* name, double value) {
  require(std::isfinite(value) && value >= 0.0, name, value, "a finite number of at least 0");
}

}  // namespace leash
