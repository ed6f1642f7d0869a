#include "core/admission/simulated_chunk.h"

namespace leash {

SimulatedPush SimulatedChunk::push(std::uint32_t worker, double now_s) {
  const Arrival arrival = admission_.arrive(worker, now_s, version_);
  SimulatedPush result{arrival.clock, arrival.staleness, arrival.dropped, {}};
  if (arrival.dropped) {
    ++dropped_;
  } else if (rule().gather == Gather::kEach) {
    ++version_;
  } else {
    gathered_.emplace(arrival.clock, worker);
  }
  const bool goes_on = admission_.admits(worker, version_);
  if (!goes_on) admission_.park(worker);
  release_workers(result.released);
  if (goes_on) {
    admission_.note_pull(worker, version_);
    admission_.go_on(worker);
    result.released.push_back(worker);
  }
  return result;
}

std::vector<std::uint32_t> SimulatedChunk::leave(std::uint32_t worker) {
  admission_.leave(worker);
  std::erase_if(gathered_, [&](const auto& entry) { return entry.second == worker; });
  std::vector<std::uint32_t> released;
  release_workers(released);
  return released;
}

std::vector<std::uint32_t> SimulatedChunk::set_rule(const Rule& rule) {
  validate(rule);
  if (rule.gather == Gather::kEach) {
    version_ += gathered_.size();
    gathered_.clear();
  }
  admission_.set_rule(rule);
  std::vector<std::uint32_t> released;
  release_workers(released);
  return released;
}

bool SimulatedChunk::is_waiting(std::uint32_t worker) const {
  static_cast<void>(clock().clock(worker));  // throws NotLive
  return admission_.is_waiting(worker);
}

void SimulatedChunk::release_workers(std::vector<std::uint32_t>& released) {
  count_means(admission_.close_round());
  admission_.release(version_, released);
  for (const std::uint32_t worker : released) {
    admission_.note_pull(worker, version_);
    admission_.go_on(worker);
  }
}

// Counts an update for each step that is complete under Gather::kStep, and for a round that was
// closed under kRound.
void SimulatedChunk::count_means(bool round_closed) {
  if (rule().gather == Gather::kStep) {
    while (!gathered_.empty() && gathered_.begin()->first <= clock().minimum()) {
      const std::uint64_t step = gathered_.begin()->first;
      while (!gathered_.empty() && gathered_.begin()->first == step) {
        gathered_.erase(gathered_.begin());
      }
      ++version_;
    }
  } else if (round_closed && !gathered_.empty()) {
    gathered_.clear();
    ++version_;
  }
}

}  // namespace leash
