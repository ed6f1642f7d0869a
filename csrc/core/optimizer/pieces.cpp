#include "core/optimizer/pieces.h"

#include <algorithm>

namespace leash {

Pieces::Pieces(std::span<const std::size_t> lengths) : begins_{0} {
  for (const std::size_t length : lengths) begins_.push_back(begins_.back() + length);
  runs_ = {{.first = 0, .end = count(), .updates = 0}};
}

std::uint64_t Pieces::updates(std::size_t piece) const {
  return std::ranges::upper_bound(runs_, piece, {}, &PieceRun::end)->updates;
}

void Pieces::set_updates(std::span<const std::uint64_t> updates) {
  next_.clear();
  for (std::size_t piece = 0; piece < updates.size(); ++piece) {
    append({.first = piece, .end = piece + 1, .updates = updates[piece]});
  }
  runs_.swap(next_);
}

bool Pieces::are_all(PieceBits bits) const {
  if (bits.empty()) return false;
  for (std::size_t piece = 0; piece < count(); ++piece) {
    if (!contains(bits, piece)) return false;
  }
  return true;
}

void Pieces::count_update(PieceBits absent) {
  if (absent.empty()) {
    for (PieceRun& run : runs_) ++run.updates;
    return;
  }
  next_.clear();
  for (const PieceRun& run : runs_) {
    for (std::size_t piece = run.first; piece < run.end; ++piece) {
      const std::uint64_t more = contains(absent, piece) ? 0 : 1;
      append({.first = piece, .end = piece + 1, .updates = run.updates + more});
    }
  }
  runs_.swap(next_);
}

void Pieces::append(PieceRun run) {
  if (!next_.empty() && next_.back().updates == run.updates) {
    next_.back().end = run.end;
  } else {
    next_.push_back(run);
  }
}

}  // namespace leash
