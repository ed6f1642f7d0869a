#include "core/shard/shard.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/base/errors.h"
#include "core/kernels/kernels.h"

namespace leash {
namespace {

// Chunks lie end to end, each from the start of a cache line.
std::size_t slab_nbytes(const std::vector<ChunkSpec>& specs) {
  std::size_t total = 0;
  for (const ChunkSpec& spec : specs) total += round_up_to_cache_line(spec.nbytes());
  return total;
}

UpdateOptions update_options_of(const ShardOptions& options) {
  return {.schedule = options.schedule,
          .scale_lr = options.scale_lr,
          .staleness_rate = options.staleness_rate,
          .compensation = options.compensation,
          .guards = options.nonfinite != Nonfinite::kApply};
}

}  // namespace

void validate(const ShardOptions& options) {
  validate(options.rule);
  if (options.rule.gather != Gather::kEach && options.compensation.is_on()) {
    throw std::invalid_argument("compensation: expected 'none', since nothing in a mean is stale");
  }
}

Shard::Shard(const std::vector<ChunkSpec>& specs, const ShardOptions& options)
    : options_(options),
      pool_(options.threads),
      optimizer_(options.optimizer, update_options_of(options), kernels_for(instruction_set()),
                 pool_),
      slab_nbytes_(slab_nbytes(specs)),
      values_(slab_nbytes_) {
  validate(options_);
  for (std::size_t i = 0; i < optimizer_.state_names().size(); ++i) {
    states_.emplace_back(slab_nbytes_);
  }
  chunks_.reserve(specs.size());
  std::size_t offset = 0;
  for (const ChunkSpec& spec : specs) {
    leash::validate(spec);
    std::array<std::byte*, kMaxStates> states{};
    if (spec.kind == ChunkKind::kParameter) {
      std::ranges::transform(states_, states.begin(), [&](Slab& s) { return s.data() + offset; });
    }
    const auto index = static_cast<std::uint32_t>(options_.first_chunk + chunks_.size());
    chunks_.push_back({{.spec = spec,
                        .values = values_.data() + offset,
                        .states = states,
                        .pieces = pieces_of(spec)},
                       index,
                       Admission(options_.rule)});
    offset += round_up_to_cache_line(spec.nbytes());
  }
}

const Chunk& Shard::at(std::uint32_t chunk) const {
  const std::size_t place = std::size_t{chunk} - options_.first_chunk;  // wraps if it is below
  if (place < chunks_.size()) return chunks_[place];
  std::string which = std::to_string(chunks_.size()) + " chunks";
  if (options_.first_chunk != 0) which += " from " + std::to_string(options_.first_chunk);
  throw std::out_of_range(chunk_name(chunk) + ": this shard has " + which);
}

// Throws std::invalid_argument if one of a chunk's worth of numbers is not finite.
void Shard::require_finite(const Chunk& chunk, const std::byte* values, const char* what) const {
  const Encoded encoded{Codec::kRaw, values, chunk.spec.nbytes(), chunk.spec.values};
  const auto found = optimizer_.find_nonfinite(chunk, encoded);
  if (!found) return;
  throw std::invalid_argument(chunk_name(chunk.index) + ": " + what + " " + std::to_string(*found) +
                              " is not finite");
}

Chunk& Shard::at(std::uint32_t chunk) { return const_cast<Chunk&>(std::as_const(*this).at(chunk)); }

bool Shard::init(std::uint32_t chunk_index, const std::byte* values) {
  Chunk& chunk = at(chunk_index);
  if (chunk.initialized) return false;
  if (chunk.spec.kind == ChunkKind::kParameter && options_.nonfinite != Nonfinite::kApply) {
    require_finite(chunk, values, "value");
  }
  std::memcpy(chunk.values, values, chunk.spec.nbytes());
  chunk.initialized = true;
  return true;
}

std::size_t Shard::initialized_chunks() const {
  return static_cast<std::size_t>(std::ranges::count_if(chunks_, &Chunk::initialized));
}

void Shard::join(std::uint32_t worker, std::uint64_t clock) {
  members_.check_join(worker, clock);  // a shard without chunks would refuse nothing
  for (const Chunk& chunk : chunks_) chunk.clock().check_join(worker, clock);
  std::byte* const backup = options_.compensation.is_on()
                                ? backups_.emplace(worker, slab_nbytes_).first->second.data()
                                : nullptr;
  members_.join(worker, clock);
  for (Chunk& chunk : chunks_) {
    chunk.admission.join(worker, clock, chunk.version);
    if (backup == nullptr || chunk.spec.kind != ChunkKind::kParameter) continue;
    chunk.backups.insert_or_assign(worker, Backup{backup + (chunk.values - values_.data())});
  }
}

std::vector<Reply> Shard::leave(std::uint32_t worker) {
  members_.leave(worker);
  std::vector<Reply> replies;
  for (Chunk& chunk : chunks_) {
    for (Parked& entry : chunk.parked) {
      if (entry.worker != worker) continue;
      forget_answer(entry);
      forget_gradient(entry);
    }
    chunk.admission.leave(worker);
    chunk.backups.erase(worker);
    release_answers(chunk, Candidates::kAll, replies);
  }
  backups_.erase(worker);
  tables_.erase(worker);
  return replies;
}

std::uint64_t Shard::first_step() const {
  std::uint64_t largest = 0;
  for (const Chunk& chunk : chunks_) largest = std::max(largest, chunk.clock().minimum());
  return largest + 1;
}

std::uint64_t Shard::clock(std::uint32_t chunk, std::uint32_t worker) const {
  return at(chunk).clock().clock(worker);
}

PullResult Shard::pull(std::uint32_t chunk_index, std::optional<std::uint32_t> worker,
                       const Destination& out) {
  Chunk& chunk = at(chunk_index);
  if (!chunk.initialized) {
    throw std::invalid_argument(chunk_name(chunk.index) + " has no values yet");
  }
  optimizer_.write(chunk, out);
  PullResult result{.version = chunk.version};
  if (worker && chunk.clock().contains(*worker)) {
    chunk.admission.note_pull(*worker, chunk.version);
    optimizer_.back_up(chunk, out, chunk.backup_of(*worker));
    release_answers(chunk, Candidates::kNewest, result.replies);
  }
  return result;
}

void Shard::unpark(std::uint32_t chunk_index, std::uint32_t worker) {
  Chunk& chunk = at(chunk_index);
  for (Parked& entry : chunk.parked) {
    if (entry.worker == worker) forget_answer(entry);
  }
  if (chunk.clock().contains(worker)) chunk.admission.go_on(worker);
  std::erase_if(chunk.parked, [](const Parked& entry) { return entry.idle(); });
}

std::size_t Shard::parked() const {
  std::size_t waiting = 0;
  for (const Chunk& chunk : chunks_) {
    for (const Parked& entry : chunk.parked) waiting += entry.awaits_answer ? 1 : 0;
  }
  return waiting;
}

void Shard::abandon() {
  for (Chunk& chunk : chunks_) {
    for (Parked& entry : chunk.parked) {
      forget_answer(entry);
      forget_gradient(entry);
    }
    chunk.parked.clear();
  }
}

std::byte* Shard::state_of(const Chunk& chunk, std::string_view name) const {
  const auto names = state_names();
  const auto found = std::ranges::find(names, name);
  if (found == names.end() || chunk.spec.kind == ChunkKind::kBuffer) {
    throw std::invalid_argument(chunk_name(chunk.index) + " has no " + std::string(name));
  }
  return chunk.states[static_cast<std::size_t>(found - names.begin())];
}

void Shard::state(std::uint32_t chunk_index, std::string_view name, std::byte* out) const {
  const Chunk& chunk = at(chunk_index);
  const std::byte* const values = state_of(chunk, name);
  if (chunk.state_started) {
    std::memcpy(out, values, chunk.spec.nbytes());
  } else {
    optimizer_.write_first_state(chunk, out);
  }
}

void Shard::require_non_negative(const Chunk& chunk, const std::byte* values,
                                 std::string_view name) const {
  with_dtype(chunk.spec.dtype, [&]<typename T>() {
    for (std::size_t i = 0; i < chunk.spec.values; ++i) {
      T value;
      std::memcpy(&value, values + i * sizeof(T), sizeof(T));
      if (value >= T{0}) continue;
      throw std::invalid_argument(chunk_name(chunk.index) + ": " + std::string(name) + " " +
                                  std::to_string(i) + " is negative");
    }
  });
}

void Shard::load_state(std::uint32_t chunk_index, std::string_view name, const std::byte* values) {
  Chunk& chunk = at(chunk_index);
  std::byte* const place = state_of(chunk, name);
  require_finite(chunk, values, name.data());
  // All buffers but SGD's hold sums of squares or their averages, except Adam's first.
  if (name != "momentum" && name != "exp_avg") require_non_negative(chunk, values, name);
  keep_for_snapshot(chunk);
  optimizer_.start_state(chunk);
  chunk.state_loaded = true;
  std::memcpy(place, values, chunk.spec.nbytes());
}

void Shard::set_version(std::uint32_t chunk_index, std::uint64_t version) {
  Chunk& chunk = at(chunk_index);
  if (members_.size() != 0) {
    throw std::invalid_argument(chunk_name(chunk.index) +
                                ": a version is set before any worker joins");
  }
  earlier_updates_ += version - chunk.version;
  chunk.version = version;
  chunk.pieces.set_updates(std::vector(chunk.pieces.count(), version));
}

std::vector<std::uint64_t> Shard::updates(std::uint32_t chunk) const {
  const Pieces& pieces = at(chunk).pieces;
  std::vector<std::uint64_t> updates;
  for (const PieceRun& run : pieces.runs()) updates.resize(run.end, run.updates);
  return updates;
}

void Shard::set_updates(std::uint32_t chunk_index, const std::vector<std::uint64_t>& updates) {
  Chunk& chunk = at(chunk_index);
  if (members_.size() != 0 || updates.size() != chunk.pieces.count()) {
    throw std::invalid_argument(chunk_name(chunk.index) +
                                ": counts are set before any worker joins, one for each of " +
                                std::to_string(chunk.pieces.count()) + " slots");
  }
  chunk.pieces.set_updates(updates);
  chunk.state_loaded = false;  // a piece without updates has nothing in its buffers
}

// Throws std::invalid_argument unless the piece's slot has a group whose options it can have.
void Shard::require_options(const Chunk& chunk, std::size_t piece, const OptionsTable& table) {
  const std::uint32_t slot = slot_of(chunk.spec, piece);
  if (slot >= table.group_of_slot.size()) {
    throw std::invalid_argument(chunk_name(chunk.index) + ": a slot has no group");
  }
  const bool limits = chunk.spec.kind == ChunkKind::kParameter &&
                      table.groups[table.group_of_slot[slot]].limits_norm();
  if (!limits || row_length_of(chunk.spec, piece) != 0) return;
  throw std::invalid_argument("max_norm: rows of slot " + std::to_string(slot) +
                              " lie in two chunks; " + chunk_name(chunk.index) + " has parts");
}

void Shard::set_options(std::uint32_t worker, OptionsTable table) {
  if (!members_.contains(worker)) throw NotLive(worker);
  validate(table, options_.optimizer);
  for (const Chunk& chunk : chunks_) {
    for (std::size_t piece = 0; piece < chunk.pieces.count(); ++piece) {
      require_options(chunk, piece, table);
    }
  }
  tables_.insert_or_assign(worker, std::move(table));
}

const OptionsTable* Shard::table_of(std::uint32_t worker) const {
  const auto found = tables_.find(worker);
  return found == tables_.end() ? nullptr : &found->second;
}

std::optional<std::size_t> Shard::publish(std::uint32_t chunk_index, const std::byte* values) {
  Chunk& chunk = at(chunk_index);
  if (!chunk.initialized) {
    throw std::invalid_argument(chunk_name(chunk.index) + " has no values yet");
  }
  const Encoded encoded{Codec::kRaw, values, chunk.spec.nbytes(), chunk.spec.values};
  if (options_.nonfinite != Nonfinite::kApply) {
    if (const auto found = optimizer_.find_nonfinite(chunk, encoded)) return found;
  }
  keep_for_snapshot(chunk);
  std::memcpy(chunk.values, values, chunk.spec.nbytes());
  ++chunk.version;
  return std::nullopt;
}

std::optional<std::size_t> Shard::heal(std::uint32_t chunk_index, const std::byte* values,
                                       std::uint64_t version) {
  Chunk& chunk = at(chunk_index);
  if (members_.size() != 0) {
    throw std::invalid_argument(chunk_name(chunk.index) + ": it is healed before any worker joins");
  }
  const Encoded encoded{Codec::kRaw, values, chunk.spec.nbytes(), chunk.spec.values};
  if (options_.nonfinite != Nonfinite::kApply) {
    if (const auto found = optimizer_.find_nonfinite(chunk, encoded)) return found;
  }
  keep_for_snapshot(chunk);
  std::memcpy(chunk.values, values, chunk.spec.nbytes());
  chunk.initialized = true;
  earlier_updates_ += version - chunk.version;
  chunk.version = version;
  return std::nullopt;
}

void Shard::skip_to(std::uint32_t chunk, std::uint64_t step) { at(chunk).admission.skip_to(step); }

ShardStats Shard::stats() const {
  ShardStats stats = stats_;
  for (const Chunk& chunk : chunks_) stats.updates += chunk.version;
  stats.updates -= earlier_updates_;
  return stats;
}

}  // namespace leash
