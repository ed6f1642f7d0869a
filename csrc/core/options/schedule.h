// The learning rate as a function of the number of updates, by the formulas of
// torch.optim.lr_scheduler.
#pragma once

#include <cstdint>

namespace leash {

enum class ScheduleDecay : std::uint8_t {
  kConstant,
  kStep,    // StepLR: times gamma after every step_size updates
  kCosine,  // CosineAnnealingLR: half a wave, down to `minimum` in total_updates
  kPower    // base * (updates + offset)^-power, stochastic approximation's (not one of torch's)
};

// A warm-up, and then the decay, which counts from 0 when the warm-up is over: torch's
// SequentialLR([LinearLR, the decay], milestones=[warmup_updates]).
struct Schedule {
  ScheduleDecay decay = ScheduleDecay::kConstant;
  std::uint64_t step_size = 1;
  double gamma = 0.1;
  std::uint64_t total_updates = 1;
  double minimum = 0.0;
  // LinearLR: from warmup_start_factor times the base to the base, in so many updates.
  std::uint64_t warmup_updates = 0;
  double warmup_start_factor = 1.0 / 3.0;
  double power = 0.6;
  double offset = 2.0;

  // The learning rate of the update that follows `version` others. A cosine stays at its minimum
  // once it has reached it; torch's would rise again.
  double lr(double base, std::uint64_t version) const;
};

// Throws std::invalid_argument, naming the value.
void validate(const Schedule& schedule);

}  // namespace leash
