// The limit for the norm of a row. Compiled once for each instruction set; see kernels_impl.h.

#include "core/kernels/optimizers/optimizers_impl.h"

namespace leash::LEASH_KERNELS {
namespace {

constexpr double kEps = 1e-7;         // torch.renorm's
constexpr double kReduce = 0x1p-600;  // brings what overflows when it is squared into the range

template <typename T>
constexpr double kLargest = 0x1.fffffep127;
template <>
constexpr double kLargest<double> = 0x1.fffffffffffffp1023;

// The sum of (scale * row[i])². Eight partial sums make an order that vectorises.
template <typename T>
double sum_of_squares(const T* row, std::size_t n, double scale) noexcept {
  constexpr std::size_t kLanes = 8;
  double sums[kLanes] = {};
  const std::size_t even = n - n % kLanes;
  for (std::size_t begin = 0; begin < even; begin += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double value = scale * static_cast<double>(row[begin + lane]);
      sums[lane] += value * value;
    }
  }
  for (std::size_t i = even; i < n; ++i) {
    const double value = scale * static_cast<double>(row[i]);
    sums[i - even] += value * value;
  }
  double total = 0.0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) total += sums[lane];
  return total;
}

// Rounds a number that is not negative to T; one beyond the range of T to the largest, a NaN to
// one.
template <typename T>
T rounded(double value) noexcept {
  return static_cast<T>(value > kLargest<T> ? kLargest<T> : value);
}

// By what to multiply the row; 1 if its norm is not too large.
template <typename T>
double factor_for(const T* row, std::size_t n, double max_norm) noexcept {
  const double sum = sum_of_squares(row, n, 1.0);
  if (sum > kLargest<double>) {
    const double reduced = square_root(sum_of_squares(row, n, kReduce));
    const double factor = max_norm / reduced * kReduce;
    return factor < 1.0 ? factor : 1.0;
  }
  const double norm = square_root(sum);
  // Compared in T, so that no row is scaled again and again for its last bits.
  return rounded<T>(norm) > rounded<T>(max_norm) ? max_norm / (norm + kEps) : 1.0;
}

}  // namespace

template <typename T>
void limit_norm(T* row, std::size_t n, double max_norm) noexcept {
  const double factor = factor_for(row, n, max_norm);
  if (factor == 1.0) return;
  const T by = static_cast<T>(factor);
  for (std::size_t i = 0; i < n; ++i) row[i] = row[i] * by;
}

template void limit_norm(float*, std::size_t, double) noexcept;
template void limit_norm(double*, std::size_t, double) noexcept;

}  // namespace leash::LEASH_KERNELS
