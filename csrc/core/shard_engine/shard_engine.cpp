#include "core/shard_engine/shard_engine.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/base/errors.h"

namespace leash {
namespace {

// Holds a reference to a buffer as long as a call needs it.
struct Hold {
  Hold(BufferBin& holder, Buffer* held) : bin(holder), buffer(held) {}
  ~Hold() { bin.drop(buffer); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  BufferBin& bin;
  Buffer* buffer;
};

std::string chunk_and_worker(std::uint32_t chunk, std::uint32_t worker) {
  return "chunk " + std::to_string(chunk) + ", worker " + std::to_string(worker);
}

}  // namespace

ShardEngine::ShardEngine(Shard& shard, ModelMap map, Nonfinite nonfinite)
    : shard_(shard), chunks_(shard, std::move(map)), nonfinite_(nonfinite) {}

ShardEngine::~ShardEngine() {
  shard_.abandon();
  collect();
  for (auto& [worker, attachment] : attachments_) bin_.drop(attachment.memory());
}

void ShardEngine::admit(std::uint32_t worker, std::uint64_t incarnation) {
  members_[worker].incarnation = incarnation;
}

void ShardEngine::expel(std::uint32_t worker) {
  members_.erase(worker);
  options_.erase(worker);
  replies_.forget(worker);
  std::erase_if(bad_, [&](const auto& entry) { return entry.first.first == worker; });
  const auto found = attachments_.find(worker);
  if (found == attachments_.end()) return;
  bin_.drop(found->second.memory());
  attachments_.erase(found);
}

void ShardEngine::leave(std::uint32_t worker, double now_s) {
  replies_.forget(worker);
  replies_.answer(shard_.leave(worker), now_s);
  note_overflows(now_s);
  replies_.flush();
  collect();
}

void ShardEngine::set_rule(const Rule& rule, double now_s) {
  replies_.answer(shard_.set_rule(rule), now_s);
  note_overflows(now_s);
  replies_.flush();
  collect();
}

void ShardEngine::refuse_pushes(std::string_view code, std::string text) {
  closed_code_ = code;
  closed_text_ = std::move(text);
}

void ShardEngine::stop(const std::string& reason) {
  refuse_pushes(codes::kStopping, reason);
  for (Asked& asked : replies_.take_parked()) {
    shard_.unpark(asked.chunk, asked.worker);
    bin_.drop(asked.payload);
    replies_.refuse(asked.route, Refused(codes::kStopping, reason), asked.worker, asked.step,
                    asked.chunk);
  }
  collect();
}

bool ShardEngine::receive(const Incoming& message) {
  const std::optional<PushHeader> header = read_push(message.header);
  if (!header) return false;
  const auto member = members_.find(header->worker);
  if (member == members_.end() || member->second.incarnation != header->incarnation) return false;
  member->second.heard_s = message.now_s;
  member->second.is_news = true;
  try {
    push(message, *header);
  } catch (const Refused& refusal) {
    replies_.refuse(message.route, refusal, header->worker, header->step, header->chunk);
  }
  replies_.flush();
  collect();
  return true;
}

void ShardEngine::attach(std::uint32_t worker, std::string_view route, Buffer* memory) {
  const bool has_outbox = memory->nbytes() == segment_nbytes(chunks_.slab_nbytes(), true);
  if (!has_outbox && memory->nbytes() != segment_nbytes(chunks_.slab_nbytes(), false)) {
    throw std::invalid_argument("memory: expected a segment of this model");
  }
  const auto found = attachments_.find(worker);
  if (found != attachments_.end()) {
    bin_.drop(found->second.memory());
    attachments_.erase(found);
  }
  memory->add_reference();
  attachments_.emplace(worker, Attachment(std::string(route), memory, has_outbox, chunks_));
}

void ShardEngine::note_options(std::uint32_t worker, std::uint64_t number, std::uint64_t table) {
  options_[worker] = {number, table};
}

void ShardEngine::pull(std::string_view route, std::uint32_t chunk,
                       std::optional<std::uint32_t> worker, WireCodec codec, double now_s) {
  chunks_.require_known(chunk);
  const Hold out(bin_, new OwnBuffer(answer_nbytes(core_codec(codec), chunks_.spec(chunk))));
  const PullResult pulled =
      shard_.pull(chunk, worker, {out.buffer->data(), core_codec(codec), nullptr});
  const ParamsHeader params{worker.value_or(0), 0, chunk, codec, pulled.version, 0, 0};
  out.buffer->add_reference();
  replies_.send({std::string(route), params, {}, out.buffer});
  replies_.answer(pulled.replies, now_s);  // to workers that waited for this one to pull
  replies_.flush();
  collect();
}

std::vector<std::pair<std::uint32_t, double>> ShardEngine::take_heard() {
  std::vector<std::pair<std::uint32_t, double>> heard;
  for (auto& [worker, member] : members_) {
    if (std::exchange(member.is_news, false)) heard.emplace_back(worker, member.heard_s);
  }
  return heard;
}

// A push, from its header to the core.

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
  require_open();
  const WireCodec reply = reply_codec(header.codec);
  Source source{.memory = payload,
                .data = payload->data(),
                .nbytes = payload->nbytes(),
                .codec = header.codec,
                .answer_codec = reply};
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
  if (header.wants_parameters && attachments_.contains(header.worker)) {
    const Attachment& attachment = require_attachment(message, header);
    attachment.require_slab(header.slab);
    require_open();
    source.answer_memory = attachment.memory();
    source.answer = attachment.values(header.slab, header.chunk);
    push_chunk(message, header, header.chunk, source);
    return;
  }
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
  const Hold answer(bin_, new OwnBuffer(chunks_.spec(header.chunk).nbytes()));
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
                .answer_memory = attachment.memory(),
                .answer = values,
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
    absent_.assign(header.absent.begin(), header.absent.end());
  } else {
    absent_.assign(std::max<std::size_t>(1, (spec.piece_lengths.size() + 7) / 8), 0xff);
  }
  pushed.gradient.owner = source.memory;
  pushed.absent = absent_;
  if (source.answer_memory != nullptr) {
    pushed.answer = {source.answer, core_codec(source.answer_codec), source.answer_memory};
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

// Tells of the means that would have overflowed, though no gradient of theirs did.
void ShardEngine::note_overflows(double now_s) {
  for (const Overflow& overflow : shard_.take_overflows()) {
    ++counts_.nonfinite_chunks;
    records_.push_back({.kind = RecordKind::kNonfinite,
                        .at_s = now_s,
                        .chunk = overflow.chunk,
                        .step = overflow.step,
                        .slot = chunks_.slot_at(overflow.chunk, overflow.index)});
  }
}

void ShardEngine::collect() {
  shard_.take_freed(freed_);
  for (void* owner : freed_) bin_.drop(static_cast<Buffer*>(owner));
}

// What a push must be.

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

const Attachment& ShardEngine::require_attachment(const Incoming& message,
                                                  const PushHeader& header) const {
  const std::string who = "worker " + std::to_string(header.worker);
  const auto found = attachments_.find(header.worker);
  if (found == attachments_.end()) {
    throw Refused(codes::kBadSegment, who + ": expected a payload, or attach before");
  }
  if (found->second.route() != message.route) {
    throw Refused(codes::kSuperseded, who + ": attached over another connection");
  }
  return found->second;
}

}  // namespace leash
