#include "core/options/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/require.h"

namespace leash {
namespace {

double decayed(const Schedule& schedule, double base, std::uint64_t update) {
  switch (schedule.decay) {
    case ScheduleDecay::kStep:
      return base * std::pow(schedule.gamma, static_cast<double>(update / schedule.step_size));
    case ScheduleDecay::kCosine: {
      const double part = static_cast<double>(std::min(update, schedule.total_updates)) /
                          static_cast<double>(schedule.total_updates);
      const double height = (1.0 + std::cos(std::numbers::pi * part)) / 2.0;
      return schedule.minimum + (base - schedule.minimum) * height;
    }
    case ScheduleDecay::kPower:
      return base * std::pow(static_cast<double>(update) + schedule.offset, -schedule.power);
    case ScheduleDecay::kConstant:
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
  require_non_negative("gamma", schedule.gamma);
  require_non_negative("minimum", schedule.minimum);
  require(schedule.warmup_start_factor > 0.0 && schedule.warmup_start_factor <= 1.0,
          "warmup_start_factor", schedule.warmup_start_factor, "above 0, at most 1");
  require_non_negative("power", schedule.power);
  require(std::isfinite(schedule.offset) && schedule.offset >= 1.0, "offset", schedule.offset,
          "a finite number of at least 1");
}

}  // namespace leash
