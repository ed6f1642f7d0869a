#include "core/step_engine/step_engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/codecs/memory.h"

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
      written_(chunks_.size()),
      absences_(chunks_.size()) {
  check(!chunks_.empty(), "chunks: expected at least one");
  check(window_ > 0, "window: expected at least 1");
  for (const std::size_t slab : memory.slabs) {
    check(slab <= memory.nbytes && slab_nbytes() <= memory.nbytes - slab,
          "memory: expected room for two slabs");
  }
  check(!memory.states || *memory.states % alignof(std::uint64_t) == 0,
        "memory: expected aligned states");
  check(
      !memory.states || chunks_.size() <= (memory.nbytes - *memory.states) / sizeof(std::uint64_t),
      "memory: expected a state for each chunk");
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
  lost_.clear();
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

std::uint32_t StepEngine::settle_written() {
  lost_.clear();
  if (open_ != Open::kStep || !is_kept_ || !memory_.states) return 0;
  for (Lane& lane : lanes_) {
    for (std::uint32_t chunk = lane.end; chunk-- > lane.first;) {
      if (lane.flight.awaiting(chunk, 1, step_, 0) == nullptr) continue;
      const std::uint64_t found = std::atomic_ref(*state(chunk)).load(std::memory_order_acquire);
      if (is_written(found)) {
        const ParamsHeader written{.chunk = chunk, .version = version_of(found)};
        static_cast<void>(store_from_segment(written, 0));
        newest_[chunk] = {version_of(found), step_};
        end_.version = std::max(end_.version, version_of(found));
        lane.flight.settle(chunk, 1);
      } else if (found != kUntouched && slab_ && !encoder_.rewrites(chunks_[chunk])) {
        lost_.push_back(chunk);
      }
    }
  }
  return static_cast<std::uint32_t>(lost_.size());
}

void StepEngine::rejoin(std::uint64_t incarnation, std::uint64_t table) {
  check(open_ == Open::kStep || open_ == Open::kNothing, "rejoin: expected a step, or none");
  incarnation_ = incarnation;
  table_ = table;
  for (Lane& lane : lanes_) {
    std::vector<Ready> again;
    for (std::uint32_t chunk = lane.end; chunk-- > lane.first;) {
      if (lane.flight.awaiting(chunk, 1, step_, 0) == nullptr) continue;
      if (!again.empty() && again.back().last == chunk + 1) {
        again.back().last = chunk;
      } else {
        again.push_back({.next = chunk, .last = chunk});
      }
    }
    const auto waiting = lane.ready.begin() + static_cast<std::ptrdiff_t>(lane.ready_at);
    again.insert(again.end(), waiting, lane.ready.end());
    lane.ready = std::move(again);
    lane.ready_at = 0;
    lane.flight.clear();
    lane.is_connected = lane.has_ring = lane.options_are_due = false;
    lane.attach_is_due = lane.is_attaching = lane.asks_to_attach = false;
  }
  for (const std::uint32_t chunk : lost_) leave_out(chunk);
}

// A gradient of zeros that no samples are behind has no part in a mean.
void StepEngine::leave_out(std::uint32_t index) {
  const StepChunk& chunk = chunks_[index];
  std::memset(pushed_slab() + chunk.start, 0, chunk.nbytes());
}

bool StepEngine::is_lost(std::uint32_t chunk) const {
  return std::ranges::find(lost_, chunk) != lost_.end();
}

std::uint64_t* StepEngine::state(std::uint32_t chunk) const {
  return reinterpret_cast<std::uint64_t*>(memory_.data + *memory_.states) + chunk;
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

bool StepEngine::awaits_ring_alone(std::size_t shard) const {
  const Lane& lane = lanes_.at(shard);
  return lane.has_ring && !lane.asks_to_attach && lane.flight.is_all_by_ring();
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
