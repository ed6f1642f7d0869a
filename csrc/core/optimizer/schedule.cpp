#include "core/optimizer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <sstream>
#include <stdexcept>

namespace leash {
namespace {

template <typename Value>
void require(bool fits, const char* name, Value value, const char* expected) {
  if (fits) return;
  std::ostringstream message;
  message << name << ": expected " << expected << ", got " << value;
  throw std::invalid_argument(message.str());
}

double decayed(const Schedule& schedule, double base, std::uint64_t update) {
  switch (schedule.decay) {
    case Decay::kStep:
      return base * std::pow(schedule.gamma, static_cast<double>(update / schedule.step_size));
    case Decay::kCosine: {
      const double part = static_cast<double>(std::min(update, schedule.total_updates)) /
                          static_cast<double>(schedule.total_updates);
      const double height = (1.0 + std::cos(std::numbers::pi * part)) / 2.0;
      return schedule.minimum + (base - schedule.minimum) * height;
    }
    case Decay::kPower:
      return base * std::pow(static_cast<double>(update) + schedule.offset, -schedule.power);
    case Decay::kConstant:
      break;
  }
  return base;
}

}  // namespace

double Schedule::lr(double base, std::uint64_t version) const {
  if (version >= warmup_updates) return decayed(*this, base, version - warmup_updates);
  const double part = static_cast<double>(version) / static_cast<double>(warmup_updates);
  return base * (warmup_start_factor + (1.0 - warmup_start_factor) * part);
}

void validate(const Schedule& schedule) {
  require(schedule.step_size > 0, "step_size", schedule.step_size, "at least 1");
  require(schedule.total_updates > 0, "total_updates", schedule.total_updates, "at least 1");
  require(std::isfinite(schedule.gamma) && schedule.gamma >= 0.0, "gamma", schedule.gamma,
          "a finite number of at least 0");
  require(std::isfinite(schedule.minimum) && schedule.minimum >= 0.0, "minimum", schedule.minimum,
          "a finite number of at least 0");
  require(schedule.warmup_start_factor > 0.0 && schedule.warmup_start_factor <= 1.0,
          "warmup_start_factor", schedule.warmup_start_factor, "above 0, at most 1");
  require(std::isfinite(schedule.power) && schedule.power >= 0.0, "power", schedule.power,
          "a finite number of at least 0");
  require(std::isfinite(schedule.offset) && schedule.offset >= 1.0, "offset", schedule.offset,
          "a finite number of at least 1");
}

}  // namespace leash
