// Kernels with a guard, which save what they replace and say whether what they store is finite.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/optimizer/optimizer_step.h"
#include "core/options/optimizer_options.h"

using namespace leash;

namespace {

const OptimizerOptions kOptimizers[] = {
    SgdOptions{.lr = 0.1},
    SgdOptions{.lr = 0.1, .weight_decay = 0.01},
    SgdOptions{.lr = 0.1, .momentum = 0.9, .weight_decay = 0.01},
    SgdOptions{.lr = 0.1, .momentum = 0.9, .nesterov = true},
    AdamOptions{},
    AdamOptions{.weight_decay = 0.01, .decoupled = true},
    AdamOptions{.weight_decay = 0.01, .amsgrad = true},
    AdagradOptions{},
    AdagradOptions{.weight_decay = 0.01},
    SumOptions{.lr = 1.0},
    SumOptions{.lr = 0.25},
};

// The arrays of one update; the gradient is where the reply goes.
template <typename T>
struct Arrays {
  Arrays(std::size_t n, std::size_t buffers, unsigned seed) : w(n), gradient(n), states(buffers) {
    std::mt19937 dice(seed);
    std::normal_distribution<T> normal;
    std::ranges::generate(w, [&] { return normal(dice); });
    std::ranges::generate(gradient, [&] { return normal(dice); });
    for (auto& state : states) {
      state.resize(n);
      std::ranges::generate(state, [&] { return std::abs(normal(dice)); });
    }
  }

  UpdateRange<T> range(bool replies) {
    auto* const bytes = reinterpret_cast<std::byte*>(gradient.data());
    UpdateRange<T> all{.w = w.data(),
                       .state = {},
                       .gradient = bytes,
                       .reply = replies ? bytes : nullptr,
                       .n = w.size()};
    for (std::size_t i = 0; i < states.size(); ++i) all.state[i] = states[i].data();
    return all;
  }

  bool operator==(const Arrays&) const = default;

  std::vector<T> w, gradient;
  std::vector<std::vector<T>> states;
};

// One update of the arrays with a guard, which saves what they were to `saved`.
template <typename T>
bool guarded(Arrays<T>& arrays, Arrays<T>& saved, const Kernels& kernels,
             const OptimizerOptions& options, bool is_first = false, bool replies = true) {
  UpdateRange<T> range = arrays.range(replies);
  range.saved[0] = saved.w.data();
  for (std::size_t i = 0; i < saved.states.size(); ++i) range.saved[1 + i] = saved.states[i].data();
  const auto step = step_of<T>(options, learning_rate(options), 2, is_first);
  return apply_step(kernels.of<T>(), step, range);
}

}  // namespace

TEST_CASE_TEMPLATE("a guard changes no bit, and saves what was there", T, float, double) {
  for (const InstructionSet isa : instruction_sets()) {
    const Kernels& kernels = kernels_for(isa);
    for (const OptimizerOptions& options : kOptimizers) {
      for (const std::size_t n : {0u, 1u, 15u, 16u, 17u, 1024u, 2047u}) {
        for (const bool is_first : {false, true}) {
          for (const bool replies : {false, true}) {
            const Arrays<T> before(n, state_names(options).size(), 51);
            Arrays<T> expected = before, updated = before, saved(n, before.states.size(), 52);
            const auto step = step_of<T>(options, learning_rate(options), 2, is_first);
            apply_step(kernels.of<T>(), step, expected.range(replies));
            CHECK(guarded(updated, saved, kernels, options, is_first, replies));
            CHECK(updated == expected);
            saved.gradient = before.gradient;
            CHECK(saved == before);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("a guard sees whatever is stored that is not finite", T, float, double) {
  constexpr T kMost = std::numeric_limits<T>::max();
  constexpr T kInf = std::numeric_limits<T>::infinity();
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  for (const InstructionSet isa : instruction_sets()) {
    const Kernels& kernels = kernels_for(isa);
    for (const OptimizerOptions& options : kOptimizers) {
      for (const std::size_t place : {0u, 16u, 998u}) {
        for (const T bad : {kInf, -kInf, kNaN}) {
          Arrays<T> arrays(999, state_names(options).size(), 53);
          Arrays<T> saved = arrays;
          arrays.gradient[place] = bad;
          CHECK_FALSE(guarded(arrays, saved, kernels, options));
        }
      }
    }
    // Finite numbers whose sum, or whose square in a buffer alone, is beyond the largest.
    Arrays<T> sum(999, 0, 54), square(999, 2, 55);
    sum.w[500] = sum.gradient[500] = kMost;
    square.gradient[500] = kMost / 4;
    Arrays<T> saved = sum;
    CHECK_FALSE(guarded(sum, saved, kernels, SgdOptions{.lr = 1.0, .maximize = true}));
    saved = square;
    CHECK_FALSE(guarded(square, saved, kernels, AdamOptions{}));
    CHECK(std::isfinite(square.w[500]));
    // The largest numbers themselves are finite.
    Arrays<T> largest(999, 0, 56);
    largest.gradient[500] = largest.w[500] = kMost;
    saved = largest;
    CHECK(guarded(largest, saved, kernels, SumOptions{.lr = 1.0}));
    CHECK(largest.w[500] == kMost);
  }
}
