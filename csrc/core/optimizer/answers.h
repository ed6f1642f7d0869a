// The answers that one pass over a chunk writes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "core/codecs/codec.h"
#include "core/codecs/memory.h"
#include "core/kernels/kernels.h"
#include "core/optimizer/chunk_values.h"

namespace leash {

// The kernel itself writes the first raw answer, value by value; the others are written after each
// block, which is in the first-level cache then.
class Answers {
 public:
  explicit Answers(std::span<const Destination> all) : all_(all) {
    const auto found = std::ranges::find(all, Codec::kRaw, &Destination::codec);
    if (found != all.end()) direct_ = &*found;
  }

  bool empty() const { return all_.empty(); }
  const Destination& front() const { return all_.front(); }
  // Whether the kernel writes all of them.
  bool are_direct() const { return all_.size() == (direct_ == nullptr ? 0 : 1); }

  // Where the kernel is to write the values from `begin` on; null: nowhere.
  template <typename T>
  std::byte* direct(std::size_t begin) const {
    return direct_ == nullptr ? nullptr : direct_->data + begin * sizeof(T);
  }
  // Writes n values to those that the kernel has not written; if none was updated, to all.
  void write_rest(const ChunkValues& chunk, std::size_t begin, std::size_t n, bool is_updated,
                  const Kernels& kernels) const {
    for (const Destination& to : all_) {
      if (!is_updated || &to != direct_) write_values(chunk, to, begin, n, kernels);
    }
  }

 private:
  std::span<const Destination> all_;
  const Destination* direct_ = nullptr;
};

}  // namespace leash
