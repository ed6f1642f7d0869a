#include "core/shard_engine/shard_engine.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace leash {

ShardEngine::ShardEngine(Shard& shard, ModelMap map, Nonfinite nonfinite)
    : shard_(shard), chunks_(shard, std::move(map)), nonfinite_(nonfinite) {}

ShardEngine::~ShardEngine() {
  shard_.abandon();
  collect();
  for (auto& [worker, attachment] : attachments_) bin_.drop(attachment.memory());
}

void ShardEngine::admit(std::uint32_t worker, std::uint64_t incarnation, std::string_view key) {
  Member& member = members_[worker];
  member.incarnation = incarnation;
  member.key = key;
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

void ShardEngine::give_up_rounds(double now_s) {
  replies_.answer(shard_.give_up_rounds(), now_s);
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
  if (member->second.key != message.key) return false;
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

void ShardEngine::attach(std::uint32_t worker, std::string_view route, Buffer* memory,
                         std::string_view ring_route) {
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
  attachments_.emplace(
      worker, Attachment(std::string(route), std::string(ring_route), memory, has_outbox, chunks_));
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

bool ShardEngine::has_news() const {
  return !records_.empty() || counts_ != EngineCounts{} ||
         std::ranges::any_of(members_, [](const auto& member) { return member.second.is_news; });
}

std::vector<std::pair<std::uint32_t, double>> ShardEngine::take_heard() {
  std::vector<std::pair<std::uint32_t, double>> heard;
  for (auto& [worker, member] : members_) {
    if (std::exchange(member.is_news, false)) heard.emplace_back(worker, member.heard_s);
  }
  return heard;
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

}  // namespace leash
