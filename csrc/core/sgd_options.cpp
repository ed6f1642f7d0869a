#include "core/sgd_options.h"

#include <cmath>
#include <sstream>
#include <stdexcept>

namespace leash {
namespace {

void require(bool fits, const char* name, double value, const char* expected) {
  if (fits) return;
  std::ostringstream message;
  message << name << ": expected " << expected << ", got " << value;
  throw std::invalid_argument(message.str());
}

void require_non_negative(const char* name, double value) {
  require(std::isfinite(value) && value >= 0.0, name, value, "a finite number of at least 0");
}

}  // namespace

void validate(const SgdOptions& options) {
  require_non_negative("lr", options.lr);
  require_non_negative("momentum", options.momentum);
  require_non_negative("weight_decay", options.weight_decay);
  require(std::isfinite(options.dampening), "dampening", options.dampening, "a finite number");
  if (!options.nesterov) return;
  require(options.momentum > 0.0, "momentum", options.momentum, "more than 0 with nesterov");
  require(options.dampening == 0.0, "dampening", options.dampening, "0 with nesterov");
}

}  // namespace leash
