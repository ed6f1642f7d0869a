// What comes in over a worker's data connections, and what it means.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <variant>

#include "core/codecs/memory.h"
#include "core/step_engine/step_engine.h"
#include "core/wire/error_codes.h"

namespace leash {
namespace {

std::string of_chunk(std::uint32_t chunk, const char* text) {
  return "chunk " + std::to_string(chunk) + ": " + text;
}

}  // namespace

Received StepEngine::receive(std::size_t shard, std::span<const std::byte> header,
                             std::size_t payloads, std::span<const std::byte> payload) {
  Lane& lane = lanes_.at(shard);
  const Answer answer = read_answer(header);
  if (const auto* params = std::get_if<ParamsHeader>(&answer); params && payloads <= 1) {
    return on_params(lane, *params, payloads, payload);
  }
  if (payloads != 0) return Received::kOther;
  if (const auto* ok = std::get_if<OkHeader>(&answer)) return on_ok(lane, *ok);
  if (const auto* error = std::get_if<ErrorHeader>(&answer)) return on_error(lane, *error);
  return Received::kOther;
}

// A request that was sent twice may be answered twice; the second answer is ignored.
Received StepEngine::on_params(Lane& lane, const ParamsHeader& params, std::size_t payloads,
                               std::span<const std::byte> payload) {
  if (lane.is_attaching) return Received::kTaken;
  const Request* const request = lane.flight.awaiting(params.chunk, params.chunks, params.step, 0);
  // Neither a pull nor an init has a number: this is the second answer to an earlier pull.
  if (request == nullptr || request->kind == RequestKind::kTell) return Received::kTaken;
  const bool pushed = request->kind == RequestKind::kPush;
  const Received stored = pushed && is_kept_ ? store_from_segment(params, payloads)
                                             : store_from_message(params, payloads, payload);
  if (stored != Received::kTaken) return stored;
  note_newest(params, /*is_in_segment=*/pushed && is_kept_);
  if (pushed) {
    end_.version = std::max(end_.version, params.version);
    end_.lag = std::max(end_.lag, params.lag);
    end_.staleness = std::max(end_.staleness, params.staleness);
  }
  lane.flight.settle(params.chunk, params.chunks);
  return Received::kTaken;
}

// An answer for several chunks tells the least of their versions; their states in the segment tell
// each one's own.
void StepEngine::note_newest(const ParamsHeader& params, bool is_in_segment) {
  for (std::uint32_t i = 0; i < params.chunks; ++i) {
    const std::uint32_t chunk = params.chunk - i;
    Newest& newest = newest_[chunk] = {params.version, params.step};
    if (!is_in_segment || params.chunks == 1 || !memory_.states) continue;
    const std::uint64_t found = std::atomic_ref(*state(chunk)).load(std::memory_order_relaxed);
    if (is_written(found)) newest.version = version_of(found);
  }
}

Received StepEngine::on_ok(Lane& lane, const OkHeader& ok) {
  if (lane.is_attaching) return Received::kTaken;
  const Request* const request = lane.flight.awaiting(ok.chunk, 1, ok.step, ok.number);
  // Neither a pull nor an init has a number: this is the second answer to an earlier init.
  if (request == nullptr || request->kind == RequestKind::kPull) return Received::kTaken;
  if (request->kind != RequestKind::kTell) return refuse(codes::kProtocol, "unexpected ok");
  lane.flight.settle(ok.chunk, 1);
  return Received::kTaken;
}

Received StepEngine::on_error(Lane& lane, const ErrorHeader& error) {
  // The push went over a new connection before the driver had heard of it, so before the `options`
  // that were lost with the old one. Both follow now, or have followed already.
  if (error.code == codes::kMissingOptions) return Received::kLook;
  // A shard's refusal of an `attach` that was given up when another shard refused it.
  if (error.code == codes::kBadSegment && !is_offered_) return Received::kTaken;
  if (error.code != codes::kSuperseded) {
    return refuse(error.code, std::string(error.text), error.clock);
  }
  // Either the request went over a new connection before the driver had heard of it, so before the
  // `attach`; or a newer copy of the request follows and will be answered.
  if (is_kept_) return Received::kLook;
  // A copy that went over the broken connection reached the server after the one that is in flight,
  // and took its place there. Its answer would go nowhere, so the request goes again.
  if (Request* request = lane.flight.awaiting_at(error.chunk, error.step)) {
    lane.flight.send_again(*request);
  }
  return Received::kTaken;
}

Received StepEngine::store_from_message(const ParamsHeader& params, std::size_t payloads,
                                        std::span<const std::byte> payload) {
  const StepChunk& chunk = chunks_[params.chunk];
  const bool pulls = open_ == Open::kPull;
  std::byte* const place = (pulls ? pulled_ : slabs_.parameters) + chunk.start;
  if (!pulls && params.unchanged && slabs_.held != nullptr) {
    std::memmove(place, slabs_.held + chunk.start, chunk.nbytes());
    return Received::kTaken;
  }
  if (payloads == 0) {
    return refuse(codes::kProtocol, of_chunk(params.chunk, "expected its parameters as payload"));
  }
  if (!carries(params.codec, chunk.dtype, chunk.is_parameters)) return Received::kOther;
  const Codec codec = core_codec(params.codec);
  if (codec == Codec::kRaw) {
    if (payload.size() != chunk.nbytes()) return Received::kOther;
    std::memcpy(place, payload.data(), payload.size());
    return Received::kTaken;
  }
  const bool is_half = codec == Codec::kBf16 || codec == Codec::kF16;
  if (is_half && payload.size() != kHalfNbytes * chunk.values) return Received::kOther;
  try {
    const Encoded encoded =
        parse(codec, payload.data(), payload.size(), chunk.values, sizeof(float));
    decode(encoded, 0, chunk.values, reinterpret_cast<float*>(place), kernels_);
  } catch (const std::invalid_argument& error) {
    return refuse(codes::kBadPayload, of_chunk(params.chunk, error.what()));
  }
  return Received::kTaken;
}

Received StepEngine::store_from_segment(const ParamsHeader& params, std::size_t payloads) {
  if (payloads != 0) {
    return refuse(codes::kProtocol,
                  of_chunk(params.chunk, "expected the parameters in the segment"));
  }
  const std::byte* const slab = pushed_slab();
  if (slab == slabs_.parameters) return Received::kTaken;
  const std::size_t begin =
      chunks_[params.chunk - static_cast<std::uint32_t>(params.chunks - 1)].start;
  std::memmove(slabs_.parameters + begin, slab + begin, chunks_[params.chunk].stop() - begin);
  return Received::kTaken;
}

Received StepEngine::refuse(std::string_view code, std::string text, std::uint64_t clock) {
  refusal_ = {std::string(code), std::move(text), clock};
  return Received::kRefused;
}

bool StepEngine::copies_answers() const {
  if (open_ != Open::kStep) return false;
  return is_kept_ ? pushed_slab() != slabs_.parameters : slabs_.held != nullptr;
}

bool StepEngine::attached(std::size_t shard, std::uint64_t number) {
  Lane& lane = lanes_.at(shard);
  if (number == lane.attaches && !lane.attach_is_due) lane.is_attaching = false;
  if (lane.is_attaching) return false;
  return std::exchange(lane.asks_to_attach, false);
}

void StepEngine::options_set(std::size_t shard, std::uint64_t number) {
  Lane& lane = lanes_.at(shard);
  if (lane.is_attaching || lane.flight.awaiting_options(number) == nullptr) return;
  lane.flight.settle_options();
}

void StepEngine::use_ring(std::size_t shard) {
  Lane& lane = lanes_.at(shard);
  if (!lane.is_attaching) lane.has_ring = true;
}

void StepEngine::leave_ring(std::size_t shard) {
  Lane& lane = lanes_.at(shard);
  lane.has_ring = false;
  lane.flight.leave_ring();
}

void StepEngine::connected(std::size_t shard) {
  Lane& lane = lanes_.at(shard);
  lane.is_connected = true;
  lane.has_ring = false;
  // The server takes a segment's gradients only over the connection that attached it.
  if (is_kept_ || is_offered_) {
    if (!lane.attach_is_due) ++lane.attaches;
    lane.attach_is_due = lane.is_attaching = true;
  }
  lane.flight.send_all_again();
}

void StepEngine::lost(std::size_t shard) { lanes_.at(shard).is_connected = false; }

}  // namespace leash
