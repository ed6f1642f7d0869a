// A chunk: a fixed range of the model, which has a version, a clock and waiting pushes of its own.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/admission/admission.h"
#include "core/optimizer/chunk_values.h"
#include "core/shard/parked.h"

namespace leash {

// How messages name a chunk.
inline std::string chunk_name(std::uint32_t index) { return "chunk " + std::to_string(index); }

// Its values and buffers lie in the shard's slabs.
struct Chunk : ChunkValues {
  std::uint32_t index;  // in the whole model
  Admission admission;

  bool initialized = false;  // it has its first values
  bool is_read_in_place =
      false;  // an open snapshot reads it where it lies, and has not read it yet
  std::vector<Parked> parked = {};                         // in order of arrival
  std::unordered_map<std::uint32_t, Backup> backups = {};  // by worker; empty without compensation

  const StepClock& clock() const { return admission.clock(); }

  // The copy of the parameters that the worker got last; null without compensation.
  Backup* backup_of(std::uint32_t worker) {
    const auto found = backups.find(worker);
    return found == backups.end() ? nullptr : &found->second;
  }
};

}  // namespace leash
