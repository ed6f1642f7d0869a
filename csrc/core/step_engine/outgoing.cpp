// What goes out over a worker's data connections, and in which order.

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/codecs/memory.h"
#include "core/step_engine/step_engine.h"

namespace leash {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

void assign(std::vector<std::byte>& target, std::span<const std::byte> bytes) {
  target.assign(bytes.begin(), bytes.end());
}

}  // namespace

std::optional<Outgoing> StepEngine::next(std::size_t shard, std::size_t most) {
  Lane& lane = lanes_.at(shard);
  if (!lane.is_connected) return std::nullopt;
  if (lane.attach_is_due) {
    lane.attach_is_due = false;
    lane.newest = nullptr;
    return Outgoing{.attach_number = lane.attaches};
  }
  Request* request = lane.flight.next_again();
  if (request == nullptr && in_flight(lane) < std::min(most, window_)) request = take_waiting(lane);
  if (request == nullptr) return std::nullopt;
  lane.newest = request;
  request->is_by_ring = fits_ring(lane, *request);
  return Outgoing{
      .header = request->header, .payload = request->payload, .is_by_ring = request->is_by_ring};
}

// What is read by options goes behind them, and so does whatever has a payload, or a long header.
bool StepEngine::fits_ring(const Lane& lane, const Request& request) const {
  return lane.has_ring && request.kind == RequestKind::kPush &&
         request.payload.source == PayloadSource::kNone && !lane.flight.has_options() &&
         request.header.size() <= kRingHeaderNbytes;
}

void StepEngine::not_sent(std::size_t shard) {
  Lane& lane = lanes_.at(shard);
  if (lane.newest == nullptr) {
    lane.attach_is_due = true;
  } else {
    lane.flight.send_again(*lane.newest);
  }
}

Request* StepEngine::take_waiting(Lane& lane) {
  if (lane.options_are_due) {
    lane.options_are_due = false;
    Request& request = lane.flight.add_options(options_number_);
    assign(request.header, bytes_of(options_header_));
    request.payload = {PayloadSource::kOptions, 0, options_nbytes_};
    return &request;
  }
  if (lane.ask != lane.end) return ask_next(lane);
  if (lane.ready_at != lane.ready.size()) return push_next(lane);
  return nullptr;
}

Request* StepEngine::ask_next(Lane& lane) {
  const std::uint32_t index = lane.ask++;
  const bool pulls = open_ == Open::kPull;
  Request& request = lane.flight.add(pulls ? RequestKind::kPull : RequestKind::kTell, index, 1);
  request.number = number_;
  assign(request.header, bytes_of(headers_[index]));
  if (!pulls) {
    request.payload = {PayloadSource::kValues, chunks_[index].start, chunks_[index].nbytes()};
  }
  return &request;
}

Request* StepEngine::push_next(Lane& lane) {
  Ready& ready = lane.ready[lane.ready_at];
  const std::uint32_t chunk = ready.next;
  const std::uint32_t chunks = is_kept_ ? run_length(ready) : 1;
  if (chunk - ready.last < chunks) {
    ++lane.ready_at;
  } else {
    ready.next -= chunks;
  }
  Request& request = lane.flight.add(RequestKind::kPush, chunk, chunks);
  request.step = step_;
  write_push(request, chunks);
  return &request;
}

// How many of the next chunks one message can name: raw ones of one codec. A chunk that a codec
// rewrites goes alone, and so does one that is lost, or of which a slot has no gradient.
std::uint32_t StepEngine::run_length(const Ready& ready) const {
  const StepChunk& first = chunks_[ready.next];
  if (encoder_.rewrites(first) || !absent(ready.next).empty() || is_lost(ready.next)) return 1;
  const std::uint32_t most = std::min(kRunChunks, ready.next - ready.last + 1);
  std::uint32_t chunks = 1;
  while (chunks < most) {
    const std::uint32_t chunk = ready.next - chunks;
    if (encoder_.codec_of(chunks_[chunk]) != encoder_.codec_of(first)) break;
    if (!absent(chunk).empty() || is_lost(chunk)) break;
    ++chunks;
  }
  return chunks;
}

void StepEngine::write_push(Request& request, std::uint32_t chunks) {
  const std::uint32_t index = request.chunk;
  const StepChunk& chunk = chunks_[index];
  const bool is_all = all_absent(index);
  PushHeader push{.worker = worker_,
                  .incarnation = incarnation_,
                  .step = step_,
                  .chunk = index,
                  .codec = is_all ? raw_codec(chunk.dtype) : encoder_.codec_of(chunk),
                  .samples = is_lost(index) ? 0 : samples_,
                  .absent = absent(index),
                  .table = table_,
                  .wants_parameters = true,
                  .chunks = chunks};
  if (is_kept_) {
    push.slab = slab_.value_or(kStandIn);
    note_untouched(index, chunks);
  } else {
    push.answer = encoder_.answer_of(chunk, push.codec);
  }
  if (is_all) {
    if (!is_kept_ && slabs_.held != nullptr) push.has = newest_[index].version + 1;
  } else if (encoder_.rewrites(chunk)) {
    Written& written = written_[index];
    if (written.step != step_) written = {step_, encode(index, push.absent)};
    const PayloadPlace payload = written.payload;
    if (is_kept_) {
      push.nbytes = payload.nbytes;
    } else {
      request.payload = payload;
    }
  } else if (!is_kept_) {
    request.payload = {PayloadSource::kGradients, chunk.start, chunk.nbytes()};
  } else if (uses_stand_in()) {
    copy_to_stand_in(index, chunks);
  }
  assign(request.header, HeaderBytes(push).bytes());
}

PayloadPlace StepEngine::encode(std::uint32_t index, std::string_view absent) {
  const StepChunk& chunk = chunks_[index];
  const std::size_t at = *memory_.outbox + chunk.start + kOutboxMarginNbytes * index;
  const std::size_t nbytes =
      encoder_.encode(chunk, index, step_, slabs_.gradients, absent, memory_.data + at);
  return {PayloadSource::kMemory, at, nbytes};
}

// From now on the server says what it has done to these places.
void StepEngine::note_untouched(std::uint32_t index, std::uint32_t chunks) {
  if (!memory_.states) return;
  for (std::uint32_t i = 0; i < chunks; ++i) {
    std::atomic_ref(*state(index - i)).store(kUntouched, std::memory_order_relaxed);
  }
}

void StepEngine::copy_to_stand_in(std::uint32_t index, std::uint32_t chunks) {
  const std::size_t begin = chunks_[index - (chunks - 1)].start;
  std::memmove(pushed_slab() + begin, slabs_.gradients + begin, chunks_[index].stop() - begin);
}

std::string_view StepEngine::absent(std::uint32_t chunk) const {
  return has_absences_ ? std::string_view(absences_[chunk].bits) : std::string_view();
}

bool StepEngine::all_absent(std::uint32_t chunk) const {
  return has_absences_ && absences_[chunk].is_all;
}

}  // namespace leash
