#include "core/codecs/encode.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/float_bits.h"
#include "core/base/unaligned.h"

namespace leash {
namespace {

// The finalizer of splitmix64: seeds that differ in one bit give keys that have nothing in common.
RoundingKey key_of(std::uint64_t seed) {
  seed += 0x9e37'79b9'7f4a'7c15;
  seed = (seed ^ (seed >> 30)) * 0xbf58'476d'1ce4'e5b9;
  seed = (seed ^ (seed >> 27)) * 0x94d0'49bb'1331'11eb;
  seed ^= seed >> 31;
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

// Writes the values of one block, and returns its scale.
float quantize_block(std::byte* out, const float* gradient, float* residual, std::size_t n,
                     RoundingKey key, std::uint32_t first_index, const Int8Kernels& kernels) {
  const std::uint32_t largest = kernels.add(residual, gradient, n);
  const float scale = float_of(largest) / 127.0f;
  if (largest >= kInfinity || scale > kMaxInt8Scale) {
    std::memset(residual, 0, n * sizeof(float));
    std::memset(out, 0, n);
    return float_of(kQuietNan);
  }
  if (scale < kMinInt8Scale) {
    std::memset(out, 0, n);
    return 0.0f;
  }
  kernels.quantize(out, residual, n, scale, key, first_index);
  return scale;
}

// Finds the magnitude of the k-th largest value digit by digit (a radix select).
class Selection {
 public:
  Selection(std::size_t k, const TopkKernels& kernels) : kernels_(kernels), needed_(k) {}

  // Adds the gradient to the residual, and counts the first digit of the sums. It leaves out values
  // below the k-th largest so far, which cannot be among the k largest of all; after a few blocks
  // these are most of the values.
  void add(float* residual, const float* gradient, std::size_t n) {
    constexpr std::size_t kBlock = 8192;
    digit_ = {0, kMagnitude, 20, 2047};
    counts_.fill(0);
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t size = std::min(kBlock, n - begin);
      kernels_.add(residual + begin, gradient + begin, size);
      kernels_.count(residual + begin, size, digit_, counts_.data());
      digit_.low = bucket().index << digit_.shift;
    }
    narrow();
  }

  // Counts the next digit of the values whose digits so far are those of the k-th largest.
  void refine(const float* values, std::size_t n, unsigned shift) {
    digit_ = {digit_.low, digit_.last, shift, 1023};
    counts_.fill(0);
    kernels_.count(values, n, digit_, counts_.data());
    narrow();
  }

  // After the last digit: the k-th largest magnitude, and how many values of this magnitude are
  // among the k largest.
  std::uint32_t magnitude() const { return digit_.low; }
  std::size_t ties() const { return needed_; }

 private:
  struct Bucket {
    std::uint32_t index;  // 0 if fewer values were counted than are needed
    std::size_t above;    // how many values were counted in higher buckets
  };

  // The bucket that holds the last of the values that are needed.
  Bucket bucket() const {
    std::size_t above = 0;
    std::uint32_t index = digit_.mask;
    while (index > 0 && above + counts_[index] < needed_) above += counts_[index--];
    return {index, above};
  }

  // Narrows the range to the bucket of the k-th largest.
  void narrow() {
    const auto [index, above] = bucket();
    const std::uint32_t prefix = digit_.last & ~((digit_.mask << digit_.shift) | below());
    digit_.low = prefix | (index << digit_.shift);
    digit_.last = digit_.low | below();
    needed_ -= above;
  }

  std::uint32_t below() const { return (std::uint32_t{1} << digit_.shift) - 1; }

  const TopkKernels& kernels_;
  std::size_t needed_;
  Digit digit_{};
  std::array<std::uint32_t, 2048> counts_;
};

void clear_nonfinite(float* residual, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if ((bits_of(residual[i]) & kInfinity) == kInfinity) residual[i] = 0.0f;
  }
}

}  // namespace

std::size_t encode_int8(const float* gradient, float* residual, std::size_t n, std::uint32_t block,
                        std::uint64_t seed, std::byte* out, const Kernels& kernels) noexcept {
  const RoundingKey key = key_of(seed);
  const std::size_t nbytes = int8_nbytes(n, block);
  std::byte* const scales = out + sizeof(block);
  std::byte* const values = out + (nbytes - n);
  store(out, 0, block);
  for (std::size_t begin = 0, i = 0; begin < n; begin += block, ++i) {
    const std::size_t size = std::min<std::size_t>(block, n - begin);
    store(scales, i,
          quantize_block(values + begin, gradient + begin, residual + begin, size, key,
                         static_cast<std::uint32_t>(begin), kernels.int8));
  }
  return nbytes;
}

std::size_t encode_topk(const float* gradient, float* residual, std::size_t n, std::size_t k,
                        std::byte* out, const Kernels& kernels) noexcept {
  if (k == 0) {
    kernels.topk.add(residual, gradient, n);
    clear_nonfinite(residual, n);
    return 0;
  }
  Selection selection(k, kernels.topk);
  selection.add(residual, gradient, n);
  selection.refine(residual, n, 10);
  selection.refine(residual, n, 0);
  kernels.topk.take(residual, n, selection.magnitude(), selection.ties(), out,
                    out + k * sizeof(std::uint32_t));
  if (selection.magnitude() >= kInfinity) clear_nonfinite(residual, n);
  return kTopkNbytes * k;
}

}  // namespace leash
