// What a push must be, so that the engine takes it.

#include <algorithm>
#include <string>

#include "core/base/errors.h"
#include "core/shard_engine/shard_engine.h"

namespace leash {
namespace {

std::string chunk_and_worker(std::uint32_t chunk, std::uint32_t worker) {
  return "chunk " + std::to_string(chunk) + ", worker " + std::to_string(worker);
}

}  // namespace

void ShardEngine::require_open() const {
  if (!closed_code_.empty()) throw Refused(closed_code_, closed_text_);
}

// Refuses a push that is to be applied by other options than this worker's newest.
void ShardEngine::require_options(const PushHeader& header, double now_s) {
  if (options_.empty() && header.table == 0) return;
  const auto found = options_.find(header.worker);
  const Options given = found == options_.end() ? Options{} : found->second;
  if (header.table != given.number) {
    if (is_repeated(header)) return;
    throw Refused(codes::kMissingOptions, "worker " + std::to_string(header.worker) + ", step " +
                                              std::to_string(header.step) + ": goes by options " +
                                              std::to_string(header.table) + ", the newest are " +
                                              std::to_string(given.number));
  }
  compare_options(header, given, now_s);
}

// Compares with the options of whoever was the first to push chunk 0 of the step: a mean goes by
// those of one worker.
void ShardEngine::compare_options(const PushHeader& header, const Options& options, double now_s) {
  const bool has_last_chunk = chunks_.first() == 0 && header.chunk < header.chunks;
  if (shard_.rule().gather == Gather::kEach || !has_last_chunk) return;
  if (header.step > newest_.step) {
    newest_.step = header.step;
    newest_.worker = header.worker;
    newest_.table = options.table;
  } else if (header.step == newest_.step && options.table != newest_.table && !newest_.has_told) {
    newest_.has_told = true;
    const auto [first, second] = std::minmax(newest_.worker, header.worker);
    records_.push_back({.kind = RecordKind::kOptionsDiffer,
                        .at_s = now_s,
                        .worker = first,
                        .step = header.step,
                        .other = second});
  }
}

// Whether every chunk has taken this step, so that it is answered and not applied again.
bool ShardEngine::is_repeated(const PushHeader& header) const {
  bool is_taken = true;
  for (std::uint64_t i = 0; i < header.chunks; ++i) {
    const std::int64_t chunk = std::int64_t{header.chunk} - static_cast<std::int64_t>(i);
    chunks_.require_known(chunk);
    try {
      const auto clock = shard_.clock(static_cast<std::uint32_t>(chunk), header.worker);
      is_taken &= header.step <= clock;
    } catch (const NotLive&) {
      return true;  // the push is refused for that
    }
  }
  return is_taken;
}

// Refuses a push ahead of its answers: such pushes would fill the memory with frames.
void ShardEngine::require_answered(const PushHeader& header, std::uint32_t chunk) const {
  const Asked* const waiting = replies_.waiting(chunk, header.worker);
  if (waiting == nullptr || header.step != waiting->step + 1) return;
  throw Refused(codes::kTooMany,
                chunk_and_worker(chunk, header.worker) + ": step " + std::to_string(waiting->step) +
                    " still waits for its answer, got step " + std::to_string(header.step));
}

void ShardEngine::require_not_refused(const PushHeader& header, std::uint32_t chunk) const {
  if (bad_.empty()) return;
  const auto found = bad_.find({header.worker, chunk});
  if (found == bad_.end() || found->second.first != header.step) return;
  throw Refused(codes::kNonfinite, found->second.second);
}

void ShardEngine::require_taken(const PushResult& result, const PushHeader& header,
                                std::uint32_t chunk) {
  switch (result.outcome) {
    case Outcome::kGap:
      throw Refused(codes::kResync,
                    chunk_and_worker(chunk, header.worker) + ": expected step " +
                        std::to_string(result.clock + 1) + ", got " + std::to_string(header.step),
                    result.clock);
    case Outcome::kUninitialized:
      throw Refused(codes::kNotReady, chunk_name(chunk) + " has no values yet: send init first");
    case Outcome::kNotLive:
      throw Refused(codes::kEvicted, "worker " + std::to_string(header.worker) +
                                         ": not live; say hello again to go on");
    default:
      return;
  }
}

WireCodec ShardEngine::answer_codec(const PushHeader& header, WireCodec codec) const {
  if (!header.answer) return reply_codec(codec);
  chunks_.require_answers(*header.answer, header.chunk);
  return *header.answer;
}

const Attachment& ShardEngine::require_attachment(const Incoming& message,
                                                  const PushHeader& header) const {
  const std::string who = "worker " + std::to_string(header.worker);
  const auto found = attachments_.find(header.worker);
  if (found == attachments_.end()) {
    throw Refused(codes::kBadSegment, who + ": expected a payload, or attach before");
  }
  if (!found->second.came_over(message.route)) {
    throw Refused(codes::kSuperseded, who + ": attached over another connection");
  }
  return found->second;
}

}  // namespace leash
