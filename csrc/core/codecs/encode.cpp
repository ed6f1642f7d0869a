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

// Writes one block's values and returns its scale.
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

// A radix select: the magnitude of the k-th largest value, found digit by digit.
class Selection {
 public:
  Selection(std::size_t k, const TopkKernels& kernels) : kernels_(kernels), needed_(k) {}

  // Adds, and counts the first digit. Values below the k-th largest so far are not counted: they
  // are not among the largest whatever follows. A few blocks on, that is most of them.
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
    settle();
  }

  // Counts the next digit of those that agree with the k-th largest so far.
  void refine(const float* values, std::size_t n, unsigned shift) {
    digit_ = {digit_.low, digit_.last, shift, 1023};
    counts_.fill(0);
    kernels_.count(values, n, digit_, counts_.data());
    settle();
  }

  // After the last digit: the magnitude, and how many of the values equal to it are needed.
  std::uint32_t magnitude() const { return digit_.low; }
  std::size_t ties() const { return needed_; }

 private:
  struct Bucket {
    std::uint32_t index;  // 0 if fewer than needed are counted
    std::size_t above;    // counted in higher ones
  };

  // Where the last one that is needed is.
  Bucket bucket() const {
    std::size_t above = 0;
    std::uint32_t index = digit_.mask;
    while (index > 0 && above + counts_[index] < needed_) above += counts_[index--];
    return {index, above};
  }

  void settle() {
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
