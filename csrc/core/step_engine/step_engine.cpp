#include "core/step_engine/step_engine.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace leash {
namespace {

void check(bool fits, const char* text) {
  if (!fits) throw std::invalid_argument(text);
}

bool is_aligned(const void* memory, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(memory) % alignment == 0;
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
      newest_(chunks_.size()),
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
    const std::size_t begin = *memory.outbox + chunks_[i].start + kOutboxMarginNbytes * i;
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

// What is open.

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
  has_absences_ = true;
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
  absence.is_all = count == chunk.pieces.size();
  if (chunk.pieces.size() > 8 * kMaxAbsentNbytes) {
    throw std::invalid_argument(
        "chunk " + std::to_string(index) + " has parts of " + std::to_string(chunk.pieces.size()) +
        " parameters, of which some have no gradient: a push can name " +
        std::to_string(8 * kMaxAbsentNbytes) + "; start the server with a smaller --chunk-kib");
  }
}

void StepEngine::attach() {
  is_offered_ = true;
  for (Lane& lane : lanes_) {
    ++lane.attaches;
    lane.attach_is_due = lane.is_attaching = lane.asks_to_attach = true;
  }
}

// How things stand.

std::size_t StepEngine::in_flight(const Lane& lane) const {
  return lane.flight.size() + (lane.asks_to_attach ? 1 : 0);
}

bool StepEngine::has_waiting(const Lane& lane) const {
  return lane.options_are_due || lane.ask != lane.end || lane.ready_at != lane.ready.size();
}

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
  return std::ranges::max_element(newest_, {}, &Newest::version)->version;
}

StepEnd StepEngine::finish() {
  check(open_ == Open::kStep && is_done(), "finish: expected a step with all of its answers");
  open_ = Open::kNothing;
  return end_;
}

void StepEngine::forget() {
  is_offered_ = is_kept_;
  for (Lane& lane : lanes_) {
    lane.flight.clear();
    if (lane.asks_to_attach || !is_offered_) {
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
