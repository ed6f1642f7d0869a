// Computes, for one update, the numbers that the kernels take from the options.
#pragma once

#include <cstdint>

#include "core/kernels/kernels.h"
#include "core/options/optimizer_options.h"
#include "core/options/staleness.h"

namespace leash {

// The numbers of the update with this number (the first is 1), at this learning rate, which
// replaces the options' own. fresh: the optimizer's buffers hold nothing yet.
template <typename T>
OptimizerStep<T> step_of(const OptimizerOptions& options, double lr, std::uint64_t update,
                         bool fresh);

// maximize: the optimizer follows the gradient upwards.
template <typename T>
CompensationStep<T> compensation_step_of(const DelayCompensation& compensation, bool maximize);

}  // namespace leash
