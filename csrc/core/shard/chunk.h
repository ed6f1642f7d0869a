// A chunk: a fixed range of the slab, the unit of application, clock and deduplication.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/admission/admission.h"
#include "core/base/dtype.h"
#include "core/optimizer/optimizer_options.h"
#include "core/shard/parked.h"

namespace leash {

enum class Kind : std::uint8_t {
  kParameter,  // pushed as gradients, changed by the optimizer
  kBuffer      // pushed as values, the newest wins
};

struct ChunkSpec {
  std::size_t values;  // how many numbers
  Dtype dtype;
  Kind kind;

  std::size_t nbytes() const { return values * size_of(dtype); }
};

// Throws std::invalid_argument for more values than a chunk can sensibly have.
void validate(const ChunkSpec& spec);

// For delay compensation: a copy of the parameters that a live worker has, once it got any.
struct Backup {
  std::byte* values;
  bool filled = false;
};

struct Chunk {
  std::uint32_t index;
  ChunkSpec spec;
  std::byte* values;  // in the slab, aligned to a cache line
  // The optimizer's buffers, each in its own slab; null beyond those that it has, and for a buffer.
  std::array<std::byte*, kMaxStates> states;
  Admission admission;

  bool initialized = false;
  bool state_started = false;                              // the optimizer's buffers hold something
  std::uint64_t version = 0;                               // updates so far
  std::vector<Parked> parked = {};                         // in order of arrival
  std::unordered_map<std::uint32_t, Backup> backups = {};  // by worker, with compensation

  const StalenessClock& clock() const { return admission.clock(); }

  // What is known of the parameters that a worker has; null without compensation.
  Backup* backup_of(std::uint32_t worker) {
    const auto found = backups.find(worker);
    return found == backups.end() ? nullptr : &found->second;
  }

  template <typename T>
  T* values_as() const {
    return reinterpret_cast<T*>(values);
  }
  template <typename T>
  T* state_as(std::size_t which) const {
    return reinterpret_cast<T*>(states[which]);
  }
};

}  // namespace leash
