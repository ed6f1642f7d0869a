#include "core/step_engine/rounding_seed.h"

#include <array>
#include <cstddef>

namespace leash {
namespace {

constexpr std::size_t kWords = 4;  // of the pool, and the most that the three numbers have

// Hashes one word after the other, each with other constants.
class Hash {
 public:
  Hash(std::uint32_t first, std::uint32_t factor) : constant_(first), factor_(factor) {}

  std::uint32_t operator()(std::uint32_t value) noexcept {
    value ^= constant_;
    constant_ *= factor_;
    value *= constant_;
    return value ^ (value >> 16);
  }

 private:
  std::uint32_t constant_;
  const std::uint32_t factor_;
};

std::uint32_t mixed(std::uint32_t x, std::uint32_t y) noexcept {
  const std::uint32_t value = 0xca01'f9ddU * x - 0x4973'f715U * y;
  return value ^ (value >> 16);
}

// The numbers one after the other, each in as few words as it needs; what is left are zeros.
std::array<std::uint32_t, kWords> words_of(std::uint32_t worker, std::uint64_t step,
                                           std::uint32_t chunk) noexcept {
  const auto low = static_cast<std::uint32_t>(step);
  const auto high = static_cast<std::uint32_t>(step >> 32);
  if (high == 0) return {worker, low, chunk, 0};
  return {worker, low, high, chunk};
}

}  // namespace

std::uint64_t rounding_seed(std::uint32_t worker, std::uint64_t step,
                            std::uint32_t chunk) noexcept {
  Hash hash(0x43b0'd7e5U, 0x931e'8875U);
  std::array<std::uint32_t, kWords> pool = words_of(worker, step, chunk);
  for (std::uint32_t& word : pool) word = hash(word);
  for (std::size_t from = 0; from < kWords; ++from) {
    for (std::size_t to = 0; to < kWords; ++to) {
      if (from != to) pool[to] = mixed(pool[to], hash(pool[from]));
    }
  }
  Hash output(0x8b51'f9ddU, 0x58f3'8dedU);
  const std::uint32_t low = output(pool[0]);
  const std::uint32_t high = output(pool[1]);
  return low | (std::uint64_t{high} << 32);
}

}  // namespace leash
