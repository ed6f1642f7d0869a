// What a shard engine counts, and what it notes one by one. Both come out in batches, for metrics
// and events.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace leash {

enum class RecordKind : std::uint8_t {
  kPush,          // chunk 0 of a step was pushed, so all of the step was: worker, step, samples
  kReply,         // and answered: worker, step, lag, staleness, dropped
  kDuplicate,     // a push came again: worker, chunk, step
  kNonfinite,     // a gradient, or with worker 0 a mean, is not finite: worker, chunk, step, slot
  kOptionsDiffer  // two workers, the second in `other`, push the same step by other options
};

struct Record {
  RecordKind kind;
  double at_s;  // of the message that led to it
  std::uint32_t worker = 0;
  std::uint32_t chunk = 0;
  std::uint64_t step = 0;
  std::uint32_t samples = 0;
  std::uint64_t lag = 0;
  std::uint64_t staleness = 0;
  bool dropped = false;
  std::uint32_t slot = 0;
  std::uint32_t other = 0;
};

struct EngineCounts {
  std::uint64_t replies = 0;
  std::uint64_t staleness_sum = 0;
  std::uint64_t max_staleness = 0;
  std::uint64_t max_lag = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t nonfinite_chunks = 0;
  std::uint64_t bytes_pushed = 0;
  std::uint64_t bytes_answered = 0;
  std::uint64_t dropped = 0;
  std::map<std::string_view, std::uint64_t> refusals = {};  // by code
  bool operator==(const EngineCounts&) const = default;
};

}  // namespace leash
