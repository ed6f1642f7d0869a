// Memory that another process may change at any time. Here a thread does, through a mapping of its
// own: what a shard has checked is what it applies, so nothing else comes into the model.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/payloads.h"
#include "tests/support/team.h"

using namespace leash;
using namespace leash::tests;

namespace {

constexpr std::size_t kN = 4096;  // several blocks of a guarded update
constexpr std::size_t kPlace = 1500;
constexpr std::uint64_t kSteps = 4000;

// One piece of memory at two addresses, as two processes see it.
class Shared {
 public:
  explicit Shared(const std::vector<std::byte>& content) : nbytes_(content.size()) {
    const int fd = memfd_create("leash-test", MFD_CLOEXEC);
    REQUIRE(fd >= 0);
    REQUIRE(ftruncate(fd, static_cast<off_t>(nbytes_)) == 0);
    own_ = map(fd);
    theirs_ = map(fd);
    close(fd);
    std::memcpy(own_, content.data(), nbytes_);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() {
    munmap(own_, nbytes_);
    munmap(theirs_, nbytes_);
  }

  std::byte* own() const { return own_; }
  std::byte* theirs() const { return theirs_; }

 private:
  std::byte* map(int fd) const {
    void* const at = mmap(nullptr, nbytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(at != MAP_FAILED);
    return static_cast<std::byte*>(at);
  }

  std::size_t nbytes_;
  std::byte* own_;
  std::byte* theirs_;
};

// Writes good and bad bits to a place in turn, until it is told to end.
template <typename Bits>
class Flipper {
 public:
  Flipper(std::byte* place, Bits good, Bits bad)
      : thread_([this, place = reinterpret_cast<volatile Bits*>(place), good, bad] {
          while (!is_over_.load(std::memory_order_relaxed)) {
            *place = bad;
            *place = good;
          }
        }) {}
  Flipper(const Flipper&) = delete;
  Flipper& operator=(const Flipper&) = delete;
  ~Flipper() {
    is_over_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> is_over_ = false;
  std::thread thread_;
};

struct Kind {
  ChunkSpec spec;
  Codec codec;
  std::vector<std::byte> payload;
  std::size_t place;  // where the bits lie that change
  std::uint64_t good, bad;
  std::size_t width;  // bytes of these bits
};

ChunkSpec spec_of(Dtype dtype, ChunkKind kind) {
  return {.values = kN, .dtype = dtype, .kind = kind};
}

std::map<std::string, Kind> kinds() {
  constexpr std::uint64_t kNan = 0x7fc0'0000, kNan64 = 0x7ff8'0000'0000'0000;
  std::vector<std::byte> int8, topk;
  append(int8, std::uint32_t{64});
  for (std::size_t i = 0; i < kN / 64; ++i) append(int8, 0.0f);
  for (std::size_t i = 0; i < kN; ++i) append(int8, std::int8_t{1});
  for (std::uint32_t i = 0; i < 100; ++i) append(topk, 10 * i);
  for (std::size_t i = 0; i < 100; ++i) append(topk, 0.0f);
  const auto zeros = [](std::size_t width) { return std::vector<std::byte>(kN * width); };
  const ChunkSpec f32 = spec_of(Dtype::kF32, ChunkKind::kParameter);
  const ChunkSpec f64 = spec_of(Dtype::kF64, ChunkKind::kParameter);
  const ChunkSpec sums = spec_of(Dtype::kF32, ChunkKind::kBuffer);
  return {
      {"f32", {f32, Codec::kRaw, zeros(4), 4 * kPlace, 0, kNan, 4}},
      {"f64", {f64, Codec::kRaw, zeros(8), 8 * kPlace, 0, kNan64, 8}},
      {"a buffer", {sums, Codec::kRaw, zeros(4), 4 * kPlace, 0, kNan, 4}},
      {"bf16", {f32, Codec::kBf16, zeros(2), 2 * kPlace, 0, 0x7fc0, 2}},
      {"f16", {f32, Codec::kF16, zeros(2), 2 * kPlace, 0, 0x7e00, 2}},
      {"int8", {f32, Codec::kInt8, int8, 4 + 4 * 3, 0, 0x7f80'0000, 4}},
      {"topk", {f32, Codec::kTopk, topk, 4 * 100 + 4 * 3, 0, kNan, 4}},
  };
}

const std::map<std::string, OptimizerOptions> kOptimizers{
    {"sgd", SgdOptions{.lr = 0.5}},
    {"momentum", SgdOptions{.lr = 0.5, .momentum = 0.5}},
    {"adam", AdamOptions{}},
    {"adagrad", AdagradOptions{}},
};

template <typename T>
bool all_finite(Shard& shard) {
  std::vector<T> out(kN);
  shard.pull(0, std::nullopt, {reinterpret_cast<std::byte*>(out.data())});
  return std::ranges::all_of(out, [](T value) { return std::isfinite(value); });
}

// Whether the model stays finite while what worker 1 pushes changes all the time.
bool stays_finite(const Kind& kind, const ShardOptions& options, std::uint32_t workers) {
  Shard shard({kind.spec}, options);
  shard.init(0, std::vector<std::byte>(kind.spec.nbytes()).data());
  for (std::uint32_t worker = 1; worker <= workers; ++worker) shard.join(worker, 0);
  const Shared memory(kind.payload);
  std::vector<std::byte> plain = kind.payload, answers(kind.spec.nbytes());
  const auto play = [&]<typename Bits>() {
    const Flipper<Bits> flipper(memory.theirs() + kind.place, static_cast<Bits>(kind.good),
                                static_cast<Bits>(kind.bad));
    for (std::uint64_t step = 1; step <= kSteps; ++step) {
      for (std::uint32_t worker = 1; worker <= workers; ++worker) {
        std::byte* const values = worker == 1 ? memory.own() : plain.data();
        Encoded encoded =
            parse(kind.codec, values, kind.payload.size(), kN, size_of(kind.spec.dtype));
        encoded.is_shared = worker == 1;
        PushResult result;
        shard.push({.chunk = 0,
                    .worker = worker,
                    .step = step,
                    .samples = 1,
                    .gradient = {encoded, nullptr},
                    .answer = {answers.data(), Codec::kRaw, nullptr},
                    .wants_payload = true},
                   result);
      }
      const bool is_finite =
          kind.spec.dtype == Dtype::kF64 ? all_finite<double>(shard) : all_finite<float>(shard);
      if (!is_finite) return false;
    }
    return true;
  };
  switch (kind.width) {
    case 2:
      return play.template operator()<std::uint16_t>();
    case 4:
      return play.template operator()<std::uint32_t>();
    default:
      return play.template operator()<std::uint64_t>();
  }
}

}  // namespace

TEST_CASE("what changes while it is applied on arrival makes nothing in the model a NaN") {
  for (const auto& [name, kind] : kinds()) {
    for (const auto& [optimizer, optimizer_options] : kOptimizers) {
      CAPTURE(name);
      CAPTURE(optimizer);
      ShardOptions options = options_of({});
      options.optimizer = optimizer_options;
      options.nonfinite = Nonfinite::kSkip;
      CHECK(stays_finite(kind, options, 1));
    }
  }
}

TEST_CASE("nor does what changes while it is compensated, or while it waits for its mean") {
  for (const auto& [name, kind] : kinds()) {
    CAPTURE(name);
    ShardOptions options = options_of({});
    options.optimizer = SgdOptions{.lr = 0.5};
    options.nonfinite = Nonfinite::kSkip;
    options.compensation.kind = CompensationKind::kAdaptive;
    CHECK(stays_finite(kind, options, 1));
    ShardOptions in_step = options_of({.bound = 0, .gather = Gather::kStep});
    in_step.nonfinite = Nonfinite::kSkip;
    CHECK(stays_finite(kind, in_step, 2));
  }
}
