// The seed by which a worker rounds a chunk of a step to int8.
#pragma once

#include <cstdint>

namespace leash {

// Differs for each worker, step and chunk, and is the same in every run:
// numpy.random.SeedSequence([worker, step, chunk]).generate_state(1, numpy.uint64), which mixes its
// words as M. E. O'Neill's seed_seq_fe does (pcg-random.org, "Developing a seed_seq Alternative").
std::uint64_t rounding_seed(std::uint32_t worker, std::uint64_t step, std::uint32_t chunk) noexcept;

}  // namespace leash
