// How the engine takes a push, from its header to the core, and what follows from it.

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/shard_engine/shard_engine.h"

namespace leash {

void ShardEngine::push(const Incoming& message, const PushHeader& header) {
  require_options(header, message.now_s);
  if (message.payload != nullptr) {
    push_payload(message, header);
    return;
  }
  if (!header.wants_parameters || !header.absent.empty()) {
    chunks_.require_known(header.chunk);
    if (chunks_.require_absent(header)) {
      push_nothing(message, header);
      return;
    }
    if (!header.wants_parameters) {
      throw Refused(codes::kBadFrames, "push: expected a payload, since not all slots are absent");
    }
  }
  push_segment(message, header);
}

void ShardEngine::push_payload(const Incoming& message, const PushHeader& header) {
  chunks_.require_known(header.chunk);
  chunks_.require_carries(header.codec, header.chunk);
  Buffer* const payload = message.payload;
  chunks_.require_size(header.codec, header.chunk, payload->nbytes());
  if (!header.absent.empty()) static_cast<void>(chunks_.require_absent(header));
  if (header.wants_parameters && (header.chunks != 1 || header.slab != 0 || header.nbytes != 0)) {
    throw Refused(codes::kBadHeader,
                  "push_pull: expected no chunks, slab and nbytes beside a payload");
  }
  const WireCodec reply = answer_codec(header, header.codec);
  Source source{.memory = payload,
                .data = payload->data(),
                .nbytes = payload->nbytes(),
                .codec = header.codec,
                .answer_codec = reply};
  require_open();
  if (!header.wants_parameters) {
    push_chunk(message, header, header.chunk, source);
    return;
  }
  if (reply == header.codec) {
    source.answer_memory = source.payload = payload;
    source.answer = payload->data();
    push_chunk(message, header, header.chunk, source);
    return;
  }
  push_for_own_answer(message, header, source);
}

void ShardEngine::push_nothing(const Incoming& message, const PushHeader& header) {
  const ChunkSpec& spec = chunks_.spec(header.chunk);
  Source source{.codec = raw_codec(spec.dtype), .answer_codec = raw_codec(spec.dtype)};
  if (header.wants_parameters && !header.answer && attachments_.contains(header.worker)) {
    const Attachment& attachment = require_attachment(message, header);
    attachment.require_slab(header.slab);
    require_open();
    source.answer_memory = attachment.memory();
    source.answer = attachment.values(header.slab, header.chunk);
    source.answer_state = attachment.state(header.chunk);
    push_chunk(message, header, header.chunk, source);
    return;
  }
  source.answer_codec = answer_codec(header, source.codec);
  require_open();
  if (!header.wants_parameters) {
    push_chunk(message, header, header.chunk, source);
    return;
  }
  push_for_own_answer(message, header, source);
}

// Pushes a chunk whose parameters do not fit where its gradient lies.
void ShardEngine::push_for_own_answer(const Incoming& message, const PushHeader& header,
                                      Source source) {
  const Hold answer(bin_, new OwnBuffer(answer_nbytes(core_codec(source.answer_codec),
                                                      chunks_.spec(header.chunk))));
  source.answer_memory = source.payload = answer.buffer;
  source.answer = answer.buffer->data();
  push_chunk(message, header, header.chunk, source);
}

void ShardEngine::push_segment(const Incoming& message, const PushHeader& header) {
  const Attachment& attachment = require_attachment(message, header);
  const bool is_run = header.nbytes == 0 && header.absent.empty();
  const std::uint64_t most = is_run ? std::uint64_t{header.chunk} + 1 : 1;
  if (header.chunks < 1 || header.chunks > most) {
    throw Refused(codes::kBadHeader, "push_pull.chunks: expected 1 to " + std::to_string(most) +
                                         ", got " + std::to_string(header.chunks));
  }
  if (header.answer) {
    throw Refused(codes::kBadHeader,
                  "push_pull.answer: expected none, since parameters lie in a segment as they are");
  }
  const auto count = static_cast<std::uint32_t>(header.chunks);
  for (std::uint32_t i = 0; i < count; ++i) chunks_.require_known(header.chunk - i);
  attachment.require_fit(header);
  for (std::uint32_t i = 0; i < count; ++i) attachment.require_fit(header, header.chunk - i);
  if (!header.absent.empty()) static_cast<void>(chunks_.require_absent(header));
  require_open();
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t chunk = header.chunk - i;
    try {
      push_chunk(message, header, chunk, source_in_segment(attachment, header, chunk));
    } catch (const Refused& refusal) {  // the chunks after it have answers of their own
      replies_.refuse(message.route, refusal, header.worker, header.step, chunk);
    }
  }
}

ShardEngine::Source ShardEngine::source_in_segment(const Attachment& attachment,
                                                   const PushHeader& header,
                                                   std::uint32_t chunk) const {
  const ChunkSpec& spec = chunks_.spec(chunk);
  std::byte* const values = attachment.values(header.slab, chunk);
  Source source{.memory = attachment.memory(),
                .data = values,
                .nbytes = spec.nbytes(),
                .codec = header.codec,
                .is_shared = true,
                .answer_memory = attachment.memory(),
                .answer = values,
                .answer_state = attachment.state(chunk),
                .answer_codec = raw_codec(spec.dtype)};
  if (core_codec(header.codec) != Codec::kRaw) {
    source.data = attachment.outbox(chunk);
    source.nbytes = header.nbytes;
  }
  return source;
}

void ShardEngine::push_chunk(const Incoming& message, const PushHeader& header, std::uint32_t chunk,
                             const Source& source) {
  require_answered(header, chunk);
  counts_.bytes_pushed += source.nbytes;
  require_not_refused(header, chunk);
  Push pushed = core_push(header, chunk, source, message.now_s);
  // From here on the shard says how long it needs the memory, also if it throws.
  if (source.memory != nullptr) source.memory->add_reference();
  if (source.answer_memory != nullptr && source.answer_memory != source.memory) {
    source.answer_memory->add_reference();
  }
  shard_.push(pushed, result_);
  require_taken(result_, header, chunk);
  Asked asked{
      .route = std::string(message.route),
      .worker = header.worker,
      .chunk = chunk,
      .step = header.step,
      .wants_parameters = header.wants_parameters,
      .has = header.has,
      .codec = source.answer_codec,
      .payload = source.payload,
      .nbytes = source.payload != nullptr ? source.payload->nbytes() : chunks_.spec(chunk).nbytes(),
      .again = result_.outcome == Outcome::kDuplicate};
  if (asked.payload != nullptr) asked.payload->add_reference();
  settle(message, header, std::move(asked));
}

Push ShardEngine::core_push(const PushHeader& header, std::uint32_t chunk, const Source& source,
                            double now_s) {
  Push pushed{.chunk = chunk,
              .worker = header.worker,
              .step = header.step,
              .samples = header.samples,
              .gradient = {},
              .answer = {},
              .wants_payload = header.wants_parameters,
              .now_s = now_s};
  const ChunkSpec& spec = chunks_.spec(chunk);
  if (source.data != nullptr) {
    try {
      pushed.gradient.encoded = parse(core_codec(source.codec), source.data, source.nbytes,
                                      spec.values, size_of(spec.dtype));
    } catch (const std::invalid_argument& error) {
      throw Refused(codes::kBadPayload, chunk_name(chunk) + ": " + error.what());
    }
    pushed.gradient.encoded.is_shared = source.is_shared;
    absent_.assign(header.absent.begin(), header.absent.end());
  } else {
    absent_.assign(std::max<std::size_t>(1, (spec.piece_lengths.size() + 7) / 8), 0xff);
  }
  pushed.gradient.owner = source.memory;
  pushed.absent = absent_;
  if (source.answer_memory != nullptr) {
    pushed.answer = {source.answer, core_codec(source.answer_codec), source.answer_memory,
                     source.answer_state};
  }
  return pushed;
}

// Counts a push of one chunk, and sends or parks the replies that follow from it.
void ShardEngine::settle(const Incoming& message, const PushHeader& header, Asked asked) {
  const std::uint32_t chunk = asked.chunk;
  if (asked.again) {
    ++counts_.duplicates;
    records_.push_back({.kind = RecordKind::kDuplicate,
                        .at_s = message.now_s,
                        .worker = header.worker,
                        .chunk = chunk,
                        .step = header.step});
  } else if (chunk == 0) {
    records_.push_back({.kind = RecordKind::kPush,
                        .at_s = message.now_s,
                        .worker = header.worker,
                        .step = header.step,
                        .samples = header.samples});
  }
  const bool is_refused = result_.nonfinite_index && nonfinite_ == Nonfinite::kRaise;
  if (is_refused) {
    bin_.drop(asked.payload);
    replies_.answer(result_.replies, message.now_s);
  } else {
    replies_.answer(result_.replies, std::move(asked), message.now_s);
  }
  note_overflows(message.now_s);
  if (result_.nonfinite_index) {
    on_nonfinite(header, chunk, *result_.nonfinite_index, message.now_s);
  }
}

void ShardEngine::on_nonfinite(const PushHeader& header, std::uint32_t chunk, std::size_t index,
                               double now_s) {
  const std::uint32_t slot = chunks_.slot_at(chunk, index);
  ++counts_.nonfinite_chunks;
  records_.push_back({.kind = RecordKind::kNonfinite,
                      .at_s = now_s,
                      .worker = header.worker,
                      .chunk = chunk,
                      .step = header.step,
                      .slot = slot});
  if (nonfinite_ != Nonfinite::kRaise) return;
  const bool is_gathered =
      shard_.rule().gather != Gather::kEach || chunks_.spec(chunk).kind == ChunkKind::kBuffer;
  std::string text = "step " + std::to_string(header.step) + " of worker " +
                     std::to_string(header.worker) + ": slot " + chunks_.name_of_slot(slot);
  text += is_gathered
              ? " has a NaN or an infinity in what was pushed; nothing of its chunk was taken"
              : " would have a NaN or an infinity after its update; the block of 1,024 "
                "values with it was left out, the rest was applied";
  bad_.insert_or_assign({header.worker, chunk}, std::pair(header.step, text));
  throw Refused(codes::kNonfinite, text);
}

}  // namespace leash
