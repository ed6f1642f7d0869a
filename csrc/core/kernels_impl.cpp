// Compiled once for each instruction set, with LEASH_KERNELS as the name of its namespace.
//
// No inline function of the standard library is called here: if one were emitted out of line, the
// linker could give this file's copy, with its instructions, to code that must run on every CPU.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/kernels.h"
#include "core/unaligned.h"

namespace leash::LEASH_KERNELS {
namespace {

template <typename T>
struct Bits;
template <>
struct Bits<float> {
  using Word = std::uint32_t;
  static constexpr Word kExponent = 0x7f80'0000;
};
template <>
struct Bits<double> {
  using Word = std::uint64_t;
  static constexpr Word kExponent = 0x7ff0'0000'0000'0000;
};

// An exponent of ones marks both NaN and infinity. Integers, because a comparison of floats that
// may trap does not vectorise.
template <typename T>
bool nonfinite_at(const std::byte* payload, std::size_t i) noexcept {
  constexpr auto kExponent = Bits<T>::kExponent;
  return (load<typename Bits<T>::Word>(payload, i) & kExponent) == kExponent;
}

template <typename T>
bool any_nonfinite(const std::byte* payload, std::size_t begin, std::size_t end) noexcept {
  typename Bits<T>::Word found = 0;
  for (std::size_t i = begin; i < end; ++i) found |= nonfinite_at<T>(payload, i);
  return found != 0;
}

// Whole blocks first: a loop that may leave at every value does not vectorise.
template <typename T>
std::size_t first_nonfinite(const std::byte* payload, std::size_t n) noexcept {
  constexpr std::size_t kBlock = 1024;
  for (std::size_t begin = 0; begin < n; begin += kBlock) {
    const std::size_t end = n - begin < kBlock ? n : begin + kBlock;
    if (!any_nonfinite<T>(payload, begin, end)) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (nonfinite_at<T>(payload, i)) return i;
    }
  }
  return n;
}

template <typename T>
void accumulate(T* __restrict sum, const std::byte* __restrict payload, std::size_t n, T weight,
                bool first) noexcept {
  if (first) {
    for (std::size_t i = 0; i < n; ++i) sum[i] = weight * load<T>(payload, i);
  } else {
    for (std::size_t i = 0; i < n; ++i) sum[i] = sum[i] + weight * load<T>(payload, i);
  }
}

template <typename T>
struct SgdArguments {
  T* w;
  T* momentum;
  const std::byte* gradient;
  std::byte* reply;
  std::size_t n;
  T lr, decay, momentum_factor, gradient_factor;
};

// The parts of SGD that a loop has or lacks. One loop for each set of parts keeps it branch-free.
constexpr unsigned kDecay = 1;
constexpr unsigned kMomentum = 2;
constexpr unsigned kFirst = 4;
constexpr unsigned kNesterov = 8;
constexpr unsigned kReply = 16;
constexpr unsigned kAllParts = 31;

// Without momentum there is neither a first update nor Nesterov's look ahead.
constexpr unsigned normalized(unsigned parts) {
  return (parts & kMomentum) != 0 ? parts : parts & ~(kFirst | kNesterov);
}

template <typename T, unsigned kParts>
void sgd_loop(const SgdArguments<T>& args) noexcept {
  const auto [w, momentum, gradient, reply, n, lr, decay, momentum_factor, gradient_factor] = args;
  LEASH_INDEPENDENT
  for (std::size_t i = 0; i < n; ++i) {
    T g = load<T>(gradient, i);
    if constexpr ((kParts & kDecay) != 0) g = g + decay * w[i];
    if constexpr ((kParts & kMomentum) != 0) {
      T velocity = g;
      if constexpr ((kParts & kFirst) == 0) {
        velocity = momentum_factor * momentum[i] + gradient_factor * g;
      }
      momentum[i] = velocity;
      if constexpr ((kParts & kNesterov) != 0) {
        g = g + momentum_factor * velocity;
      } else {
        g = velocity;
      }
    }
    const T updated = w[i] - lr * g;
    w[i] = updated;
    if constexpr ((kParts & kReply) != 0) store(reply, i, updated);
  }
}

template <typename T, unsigned... kParts>
void sgd_loop_with(unsigned parts, const SgdArguments<T>& args,
                   std::integer_sequence<unsigned, kParts...>) noexcept {
  static constexpr void (*kLoops[])(const SgdArguments<T>&) noexcept = {
      sgd_loop<T, normalized(kParts)>...};
  kLoops[parts](args);
}

template <typename T>
void sgd(T* w, T* momentum, const std::byte* gradient, std::byte* reply, std::size_t n,
         const SgdOptions& options, bool first_update) noexcept {
  const SgdArguments<T> args{
      w,
      momentum,
      gradient,
      reply,
      n,
      static_cast<T>(options.lr),
      static_cast<T>(options.weight_decay),
      static_cast<T>(options.momentum),
      static_cast<T>(1.0 - options.dampening),
  };
  const unsigned parts = (options.weight_decay != 0.0 ? kDecay : 0) |
                         (options.momentum != 0.0 ? kMomentum : 0) | (first_update ? kFirst : 0) |
                         (options.nesterov ? kNesterov : 0) | (reply != nullptr ? kReply : 0);
  sgd_loop_with(parts, args, std::make_integer_sequence<unsigned, kAllParts + 1>{});
}

}  // namespace

extern const HalfKernels kHalfTable;
extern const Int8Kernels kInt8Table;
extern const TopkKernels kTopkTable;
extern const Kernels kTable;
const Kernels kTable{
    .f32 = {first_nonfinite<float>, accumulate<float>, sgd<float>},
    .f64 = {first_nonfinite<double>, accumulate<double>, sgd<double>},
    .half = kHalfTable,
    .int8 = kInt8Table,
    .topk = kTopkTable,
};

}  // namespace leash::LEASH_KERNELS
