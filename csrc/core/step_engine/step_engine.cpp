#include "core/step_engine/step_engine.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <variant>

namespace leash {
namespace {

constexpr std::string_view kSuperseded = "superseded";
constexpr std::string_view kMissingOptions = "missing_options";
constexpr std::string_view kNotFitting = "protocol";
constexpr std::string_view kBadPayload = "bad_payload";

std::string of_chunk(std::uint32_t chunk, const char* text) {
  return "chunk " + std::to_string(chunk) + ": " + text;
}

void check(bool fits, const char* text) {
  if (!fits) throw std::invalid_argument(text);
}

bool is_aligned(const void* memory, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(memory) % alignment == 0;
}

// Whether a codec can carry the numbers of a chunk.
bool carries(WireCodec codec, const StepChunk& chunk) {
  if (codec == WireCodec::kF32 || codec == WireCodec::kF64) return codec == raw_codec(chunk.dtype);
  return chunk.dtype == Dtype::kF32 && chunk.is_parameters;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

void assign(std::vector<std::byte>& target, std::span<const std::byte> bytes) {
  target.assign(bytes.begin(), bytes.end());
}

}  // namespace

StepEngine::StepEngine(std::vector<StepChunk> chunks, const StepMember& member,
                       const EncodingSettings& encoding, const StepMemory& memory,
                       std::byte* residual)
    : chunks_(std::move(chunks)),
      worker_(member.worker),
      incarnation_(member.incarnation),
      window_(member.window),
      memory_(memory),
      encoder_(encoding, member.worker, residual),
      encodes_(std::any_of(chunks_.begin(), chunks_.end(),
                           [&](const StepChunk& chunk) { return encoder_.rewrites(chunk); })),
      kernels_(kernels_for(instruction_set())),
      versions_(chunks_.size()),
      absences_(chunks_.size()) {
  check(!chunks_.empty(), "chunks: expected at least one");
  check(window_ > 0, "window: expected at least 1");
  for (const std::size_t slab : memory.slabs) {
    check(slab <= memory.nbytes && slab_nbytes() <= memory.nbytes - slab,
          "memory: expected room for two slabs");
  }
  check(!has_residual(encoding.codec) || residual != nullptr, "residual: expected one");
  check(!encodes_ || memory.outbox.has_value(), "memory: expected an outbox");
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    check(i == 0 || chunks_[i].start >= chunks_[i - 1].stop(), "chunks: expected them in order");
    if (!encoder_.rewrites(chunks_[i])) continue;
    const std::size_t begin = *memory.outbox + chunks_[i].start + kOutboxMargin * i;
    check(begin + encoder_.most_nbytes(chunks_[i]) <= memory.nbytes,
          "memory: expected a larger outbox");
  }
  const auto& firsts = member.first_chunks;
  check(!firsts.empty() && firsts.front() == 0 && std::is_sorted(firsts.begin(), firsts.end()) &&
            firsts.back() <= chunks_.size(),
        "first_chunks: expected ascending numbers of chunks from 0 on");
  for (std::size_t shard = 0; shard < firsts.size(); ++shard) {
    const bool is_last = shard + 1 == firsts.size();
    lanes_.emplace_back(firsts[shard],
                        is_last ? static_cast<std::uint32_t>(chunks_.size()) : firsts[shard + 1]);
    lanes_.back().ask = lanes_.back().end;
  }
}

// What goes out.

void StepEngine::open(Open what) {
  forget();
  open_ = what;
}

void StepEngine::begin(std::uint64_t step, std::uint32_t samples, const StepSlabs& slabs,
                       std::uint64_t table) {
  constexpr std::size_t kAlignment = alignof(float);
  check(is_aligned(slabs.gradients, kAlignment) && is_aligned(slabs.parameters, kAlignment),
        "slabs: expected aligned memory");
  open(Open::kStep);
  step_ = step;
  samples_ = samples;
  table_ = table;
  slabs_ = slabs;
  slab_.reset();
  for (std::uint32_t index = 0; index < 2; ++index) {
    if (memory_.data + memory_.slabs[index] == slabs.gradients) slab_ = index;
  }
  end_ = {};
  if (has_absences_) {
    for (Absence& absence : absences_) absence = {};
    has_absences_ = false;
  }
  for (Lane& lane : lanes_) lane.unready = lane.end;
}

void StepEngine::pull(std::vector<std::string> headers, std::byte* parameters) {
  check(headers.size() == chunks_.size(), "headers: expected one for each chunk");
  check(is_aligned(parameters, alignof(float)), "slabs: expected aligned memory");
  open(Open::kPull);
  headers_ = std::move(headers);
  number_ = 0;
  pulled_ = parameters;
  for (Lane& lane : lanes_) lane.ask = lane.first;
}

void StepEngine::tell(std::vector<std::string> headers, std::uint64_t number) {
  check(headers.size() == chunks_.size(), "headers: expected one for each chunk");
  open(Open::kTell);
  headers_ = std::move(headers);
  number_ = number;
  for (Lane& lane : lanes_) lane.ask = lane.first;
}

void StepEngine::set_options(std::uint64_t number, std::string header, std::size_t payload_nbytes) {
  options_number_ = number;
  options_header_ = std::move(header);
  options_nbytes_ = payload_nbytes;
  for (Lane& lane : lanes_) lane.options_are_due = true;
}

void StepEngine::ready(std::uint32_t first_ready, const IsAbsent& is_absent) {
  check(open_ == Open::kStep, "ready: expected an open step");
  for (Lane& lane : lanes_) {
    const std::uint32_t last = std::max(first_ready, lane.first);
    if (last >= lane.unready) continue;
    if (is_absent) {
      for (std::uint32_t chunk = lane.unready; chunk-- > last;) note_absence(chunk, is_absent);
    }
    lane.ready.push_back({.next = lane.unready - 1, .last = last});
    lane.unready = last;
  }
}

void StepEngine::note_absence(std::uint32_t index, const IsAbsent& is_absent) {
  const StepChunk& chunk = chunks_[index];
  if (!chunk.is_parameters) return;
  Absence& absence = absences_[index];
  absence = {};
  std::size_t count = 0;
  for (std::size_t place = 0; place < chunk.pieces.size(); ++place) {
    if (!is_absent(chunk.pieces[place].slot)) continue;
    ++count;
    if (place >= 8 * kMaxAbsentNbytes) continue;
    absence.bits.resize(place / 8 + 1);
    absence.bits[place / 8] = static_cast<char>(
        static_cast<unsigned char>(absence.bits[place / 8]) | (1U << (place % 8)));
  }
  if (count == 0) return;
  has_absences_ = true;
  absence.is_all = count == chunk.pieces.size();
  if (chunk.pieces.size() > 8 * kMaxAbsentNbytes) {
    throw std::invalid_argument(
        "chunk " + std::to_string(index) + " has parts of " + std::to_string(chunk.pieces.size()) +
        " parameters, of which some have no gradient: a push can name " +
        std::to_string(8 * kMaxAbsentNbytes) + "; start the server with a smaller --chunk-kib");
  }
}

std::string_view StepEngine::absent(std::uint32_t chunk) const {
  return has_absences_ ? std::string_view(absences_[chunk].bits) : std::string_view();
}

bool StepEngine::all_absent(std::uint32_t chunk) const {
  return has_absences_ && absences_[chunk].is_all;
}

void StepEngine::attach() {
  for (Lane& lane : lanes_) {
    ++lane.attaches;
    lane.attach_is_due = lane.is_attaching = lane.asks_to_attach = true;
  }
}

std::optional<Outgoing> StepEngine::next(std::size_t shard, std::size_t most) {
  Lane& lane = lanes_.at(shard);
  if (!lane.is_connected) return std::nullopt;
  if (lane.attach_is_due) {
    lane.attach_is_due = false;
    return Outgoing{.attach_number = lane.attaches};
  }
  const Request* request = lane.flight.next_again();
  if (request == nullptr && in_flight(lane) < std::min(most, window_)) request = take_waiting(lane);
  if (request == nullptr) return std::nullopt;
  return Outgoing{.header = request->header, .payload = request->payload};
}

std::size_t StepEngine::in_flight(const Lane& lane) const {
  return lane.flight.size() + (lane.asks_to_attach ? 1 : 0);
}

bool StepEngine::has_waiting(const Lane& lane) const {
  return lane.options_are_due || lane.ask != lane.end || lane.ready_at != lane.ready.size();
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
// rewrites goes alone, and so does one of which a slot has no gradient.
std::uint32_t StepEngine::run_length(const Ready& ready) const {
  const StepChunk& first = chunks_[ready.next];
  if (encoder_.rewrites(first) || !absent(ready.next).empty()) return 1;
  const std::uint32_t most = std::min(kRunChunks, ready.next - ready.last + 1);
  std::uint32_t chunks = 1;
  while (chunks < most) {
    const std::uint32_t chunk = ready.next - chunks;
    if (encoder_.codec_of(chunks_[chunk]) != encoder_.codec_of(first)) break;
    if (!absent(chunk).empty()) break;
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
                  .samples = samples_,
                  .absent = absent(index),
                  .table = table_,
                  .wants_parameters = true,
                  .chunks = chunks};
  if (is_kept_) push.slab = slab_.value_or(kStandIn);
  if (is_all) {
    if (!is_kept_ && slabs_.held != nullptr) push.has = versions_[index] + 1;
  } else if (encoder_.rewrites(chunk)) {
    const PayloadPlace payload = encode(index, push.absent);
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
  const std::size_t at = *memory_.outbox + chunk.start + kOutboxMargin * index;
  const std::size_t nbytes =
      encoder_.encode(chunk, index, step_, slabs_.gradients, absent, memory_.data + at);
  return {PayloadSource::kMemory, at, nbytes};
}

void StepEngine::copy_to_stand_in(std::uint32_t index, std::uint32_t chunks) {
  const std::size_t begin = chunks_[index - (chunks - 1)].start;
  std::memmove(pushed_slab() + begin, slabs_.gradients + begin, chunks_[index].stop() - begin);
}

// What comes in.

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
  if (request == nullptr) return Received::kTaken;
  const bool pushed = request->kind == RequestKind::kPush;
  if (request->kind != RequestKind::kTell) {
    const Received stored = pushed && is_kept_ ? store_from_segment(params, payloads)
                                               : store_from_message(params, payloads, payload);
    if (stored != Received::kTaken) return stored;
    const std::uint32_t above = params.chunk + 1;
    std::fill(versions_.begin() + (above - static_cast<std::uint32_t>(params.chunks)),
              versions_.begin() + above, params.version);
  }
  if (pushed) {
    end_.version = std::max(end_.version, params.version);
    end_.lag = std::max(end_.lag, params.lag);
    end_.staleness = std::max(end_.staleness, params.staleness);
  }
  lane.flight.settle(params.chunk, params.chunks);
  return Received::kTaken;
}

Received StepEngine::on_ok(Lane& lane, const OkHeader& ok) {
  if (lane.is_attaching) return Received::kTaken;
  const Request* const request = lane.flight.awaiting(ok.chunk, 1, ok.step, ok.number);
  if (request == nullptr) return Received::kTaken;
  if (request->kind != RequestKind::kTell) return refuse(kNotFitting, "unexpected ok");
  lane.flight.settle(ok.chunk, 1);
  return Received::kTaken;
}

Received StepEngine::on_error(Lane& lane, const ErrorHeader& error) {
  // The push went over a new connection before the driver had heard of it, so before the `options`
  // that were lost with the old one. Both follow now, or have followed already.
  if (error.code == kMissingOptions) return Received::kLook;
  if (error.code != kSuperseded) {
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
    return refuse(kNotFitting, of_chunk(params.chunk, "expected its parameters as payload"));
  }
  if (!carries(params.codec, chunk)) return Received::kOther;
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
    return refuse(kBadPayload, of_chunk(params.chunk, error.what()));
  }
  return Received::kTaken;
}

Received StepEngine::store_from_segment(const ParamsHeader& params, std::size_t payloads) {
  if (payloads != 0) {
    return refuse(kNotFitting, of_chunk(params.chunk, "expected the parameters in the segment"));
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

void StepEngine::connected(std::size_t shard) {
  Lane& lane = lanes_.at(shard);
  lane.is_connected = true;
  // The server takes a segment's gradients only over the connection that attached it.
  if (is_kept_ || lane.asks_to_attach) {
    if (!lane.attach_is_due) ++lane.attaches;
    lane.attach_is_due = lane.is_attaching = true;
  }
  lane.flight.send_all_again();
}

void StepEngine::lost(std::size_t shard) { lanes_.at(shard).is_connected = false; }

// How things stand.

bool StepEngine::is_idle(std::size_t shard) const {
  const Lane& lane = lanes_.at(shard);
  return in_flight(lane) == 0 && !has_waiting(lane);
}

bool StepEngine::awaits_last(std::size_t shard) const {
  const Lane& lane = lanes_.at(shard);
  return in_flight(lane) == 1 && !has_waiting(lane);
}

bool StepEngine::is_done() const {
  for (std::size_t shard = 0; shard < lanes_.size(); ++shard) {
    if (!is_idle(shard)) return false;
  }
  return true;
}

std::uint64_t StepEngine::version() const {
  return *std::max_element(versions_.begin(), versions_.end());
}

StepEnd StepEngine::finish() {
  check(open_ == Open::kStep && is_done(), "finish: expected a step with all of its answers");
  open_ = Open::kNothing;
  return end_;
}

void StepEngine::forget() {
  for (Lane& lane : lanes_) {
    lane.flight.clear();
    if (lane.asks_to_attach) {
      lane.asks_to_attach = lane.attach_is_due = lane.is_attaching = false;
    }
    lane.options_are_due = false;
    lane.ask = lane.end;
    lane.unready = lane.first;
    lane.ready.clear();
    lane.ready_at = 0;
  }
  headers_.clear();
  open_ = Open::kNothing;
}

}  // namespace leash
