// The pieces of a chunk: the parts of it that belong to one slot (one tensor of the model) each.
//
// torch's optimizers leave a parameter without a gradient alone: they make no step for it, and do
// not count one. So a chunk counts its updates piece by piece, and a gradient may be absent for
// some of its pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace leash {

// Names pieces by a bit each: bit i % 8 of byte i / 8 is set if piece i is among them. Bytes that
// are left out at the end are 0.
using PieceBits = std::span<const std::uint8_t>;

inline bool contains(PieceBits bits, std::size_t piece) {
  return piece / 8 < bits.size() && ((bits[piece / 8] >> (piece % 8)) & 1U) != 0;
}

// Neighbouring pieces that have seen the same number of updates.
struct PieceRun {
  std::size_t first;  // the run's pieces are [first, end)
  std::size_t end;
  std::uint64_t updates;

  bool operator==(const PieceRun&) const = default;
};

// Where the pieces of a chunk lie, and how many updates each has seen. As long as every gradient is
// for all of them there is one run, whatever their number.
class Pieces {
 public:
  // lengths: how many values each piece has, in the order in which they lie in the chunk.
  explicit Pieces(std::span<const std::size_t> lengths);

  std::size_t count() const { return begins_.size() - 1; }
  // The piece's values are [begin(piece), begin(piece + 1)).
  std::size_t begin(std::size_t piece) const { return begins_[piece]; }

  std::span<const PieceRun> runs() const { return runs_; }
  std::uint64_t updates(std::size_t piece) const;
  void set_updates(std::span<const std::uint64_t> updates);  // one number for each piece

  // Whether the bits name all pieces.
  bool are_all(PieceBits bits) const;
  // Counts an update of every piece that is not absent.
  void count_update(PieceBits absent);

 private:
  void append(PieceRun run);  // to next_, joined with the last run if both saw as many updates

  std::vector<std::size_t> begins_;  // of each piece, and the end of the last one
  std::vector<PieceRun> runs_;
  std::vector<PieceRun> next_;  // used within one call
};

}  // namespace leash
