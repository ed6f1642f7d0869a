#include "core/shard_engine/replies.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

namespace leash {
namespace {

bool answers(const Reply& reply, const Asked& asked) {
  return reply.chunk == asked.chunk && reply.worker == asked.worker && reply.step == asked.step;
}

// Whether `params` is about the chunk just before those of `last`.
bool precedes(const ParamsHeader& params, const ParamsHeader& last) {
  return params.worker == last.worker && params.step == last.step &&
         params.chunk + last.chunks == last.chunk;
}

// Parts of a normal run: no peer sent anything wrong.
bool is_counted(std::string_view code) {
  return code != codes::kStopping && code != codes::kSuperseded && code != codes::kMissingOptions &&
         code != codes::kNonfinite;
}

}  // namespace

std::uint32_t OutgoingAnswer::worker() const {
  return std::visit(
      [](const auto& h) {
        return std::is_same_v<std::decay_t<decltype(h)>, ErrorHeader> ? 0U : h.worker;
      },
      header);
}

HeaderBytes OutgoingAnswer::written() const {
  if (const auto* error = std::get_if<ErrorHeader>(&header)) {
    ErrorHeader told = *error;
    told.text = text;
    return HeaderBytes(told);
  }
  if (const auto* params = std::get_if<ParamsHeader>(&header)) return HeaderBytes(*params);
  return HeaderBytes(std::get<OkHeader>(header));
}

Replies::~Replies() {
  for (auto& [key, asked] : parked_) bin_.drop(asked.payload);
  for (OutgoingAnswer& message : outgoing_) bin_.drop(message.payload);
}

std::vector<std::uint32_t> Replies::waiting() const {
  std::vector<std::uint32_t> workers;
  for (const auto& [key, asked] : parked_) {
    if (workers.empty() || workers.back() != key.first) workers.push_back(key.first);
  }
  return workers;
}

const Asked* Replies::waiting(std::uint32_t chunk, std::uint32_t worker) const {
  const auto found = parked_.find({worker, chunk});
  return found == parked_.end() ? nullptr : &found->second;
}

void Replies::answer(const std::vector<Reply>& replies, Asked asked, double now_s) {
  bool is_answered = false;
  for (const Reply& reply : replies) {
    if (!is_answered && answers(reply, asked)) {
      is_answered = true;
      send_reply(reply, std::move(asked), now_s);
      continue;
    }
    send_parked(reply, now_s);
  }
  if (!is_answered) park(std::move(asked));
}

void Replies::answer(const std::vector<Reply>& replies, double now_s) {
  for (const Reply& reply : replies) send_parked(reply, now_s);
}

// Nobody asks any more for a reply to a worker that was forgotten.
void Replies::send_parked(const Reply& reply, double now_s) {
  auto node = parked_.extract({reply.worker, reply.chunk});
  if (node.empty()) return;
  Asked asked = std::move(node.mapped());
  spare_.push_back(std::move(node));
  send_reply(reply, std::move(asked), now_s);
}

void Replies::park(Asked asked) {
  const Key key{asked.worker, asked.chunk};
  auto node = parked_.extract(key);
  if (node.empty()) {
    keep(key, std::move(asked));
    return;
  }
  Asked before = std::exchange(node.mapped(), std::move(asked));
  node.mapped().place = before.place;
  if (!before.again) node.mapped().again = false;  // neither of the two was answered yet
  const bool is_same_route = node.mapped().route == before.route;
  parked_.insert(std::move(node));
  bin_.drop(before.payload);
  // Whoever still waits there asks again, as the newer copy was a late one. Over one connection no
  // copy is late: there, each asking again would lead to the next.
  if (is_same_route) return;
  refuse(before.route,
         Refused(codes::kSuperseded, "step " + std::to_string(before.step) + " of chunk " +
                                         std::to_string(before.chunk) + ": asked again"),
         before.worker, before.step, before.chunk);
}

void Replies::keep(const Key& key, Asked asked) {
  asked.place = ++places_;
  if (spare_.empty()) {
    parked_.emplace(key, std::move(asked));
    return;
  }
  auto node = std::move(spare_.back());
  spare_.pop_back();
  node.key() = key;
  node.mapped() = std::move(asked);
  parked_.insert(std::move(node));
}

void Replies::send_reply(const Reply& reply, Asked asked, double now_s) {
  if (!asked.again) count(reply, now_s);
  if (!asked.wants_parameters) {
    bin_.drop(asked.payload);
    send({std::move(asked.route), OkHeader{reply.worker, reply.step, reply.chunk, true}});
    return;
  }
  ParamsHeader params{reply.worker,  reply.step, reply.chunk,    asked.codec,
                      reply.version, reply.lag,  reply.staleness};
  if (asked.has == reply.version + 1) {
    params.unchanged = true;
    bin_.drop(asked.payload);
    send({std::move(asked.route), params});
    return;
  }
  counts_.bytes_answered += asked.nbytes;
  if (asked.payload == nullptr) {
    join(std::move(asked.route), params);
  } else {
    send({std::move(asked.route), params, {}, asked.payload});
  }
}

void Replies::count(const Reply& reply, double now_s) {
  ++counts_.replies;
  counts_.max_lag = std::max(counts_.max_lag, reply.lag);
  if (reply.dropped) {
    ++counts_.dropped;
  } else {
    counts_.staleness_sum += reply.staleness;
    counts_.max_staleness = std::max(counts_.max_staleness, reply.staleness);
  }
  if (reply.chunk != 0) return;
  records_.push_back({.kind = RecordKind::kReply,
                      .at_s = now_s,
                      .worker = reply.worker,
                      .step = reply.step,
                      .lag = reply.lag,
                      .staleness = reply.staleness,
                      .dropped = reply.dropped});
}

// Joins an answer with the last one, if that is about the next chunk in the segment. The answer of
// both has the least version, and the largest lag and staleness.
void Replies::join(std::string route, const ParamsHeader& params) {
  if (!unsent_.empty() && unsent_.back().route == route) {
    auto& last = std::get<ParamsHeader>(unsent_.back().header);
    if (precedes(params, last)) {
      last.version = std::min(last.version, params.version);
      last.lag = std::max(last.lag, params.lag);
      last.staleness = std::max(last.staleness, params.staleness);
      ++last.chunks;
      return;
    }
  }
  unsent_.push_back({std::move(route), params});
}

void Replies::flush() {
  for (OutgoingAnswer& message : unsent_) outgoing_.push_back(std::move(message));
  unsent_.clear();
}

void Replies::refuse(std::string_view route, const Refused& refusal, std::uint32_t worker,
                     std::uint64_t step, std::uint32_t chunk) {
  if (is_counted(refusal.code())) ++counts_.refusals[refusal.code()];
  const ErrorHeader error{refusal.code(), {}, worker, step, chunk, refusal.clock()};
  send({std::string(route), error, refusal.text()});
}

void Replies::forget(std::uint32_t worker) {
  const auto begin = parked_.lower_bound({worker, 0});
  const auto end = parked_.upper_bound({worker, std::numeric_limits<std::uint32_t>::max()});
  for (auto it = begin; it != end; ++it) bin_.drop(it->second.payload);
  parked_.erase(begin, end);
}

std::vector<Asked> Replies::take_parked() {
  std::vector<Asked> asked;
  for (auto& [key, entry] : parked_) asked.push_back(std::move(entry));
  parked_.clear();
  std::ranges::sort(asked, {}, &Asked::place);
  return asked;
}

}  // namespace leash
