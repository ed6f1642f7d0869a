// The headers that travel with every step: push, push_pull, params, ok, error. docs/wire-format.md
// is the contract; ps/wire/messages.py has the other verbs.
//
// A header is a msgpack map of at most 4 KiB: "v" (the version, 1), "t" (the verb), and the verb's
// fields. A field that has its default value is left out where it is written, and may be where it
// is read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

#include "core/base/dtype.h"
#include "core/codecs/codec.h"

namespace leash {

inline constexpr std::size_t kMaxHeaderNbytes = 4096;
inline constexpr std::size_t kMaxAbsentNbytes = 3072;
inline constexpr std::size_t kMaxErrorText = 512;        // characters
inline constexpr std::size_t kMaxErrorCodeNbytes = 256;  // 64 characters

// The codecs by the names that headers have for them.
enum class WireCodec : std::uint8_t { kF32, kF64, kBf16, kF16, kInt8, kTopk };
std::string_view name_of(WireCodec codec);
std::optional<WireCodec> wire_codec(std::string_view name);
Codec core_codec(WireCodec codec);       // f32 and f64 are raw
WireCodec reply_codec(WireCodec codec);  // of the parameters that answer a push in this one
WireCodec raw_codec(Dtype dtype);        // the numbers of that dtype as they are
// Whether a codec can carry a chunk. The values of buffers are never rounded, since the newest
// replace the others.
bool carries(WireCodec codec, Dtype dtype, bool is_parameters);

// `push`, and `push_pull` if wants_parameters: a push has none of the fields below it.
struct PushHeader {
  std::uint32_t worker = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t step = 0;
  std::uint32_t chunk = 0;
  WireCodec codec = WireCodec::kF32;
  std::uint32_t samples = 0;
  std::string_view absent = {};  // bits, one for each slot of the chunk; lies in what was read
  std::uint64_t table = 0;
  bool wants_parameters = false;
  std::uint64_t chunks = 1;
  std::uint32_t slab = 0;
  std::uint64_t nbytes = 0;
  std::uint64_t has = 0;
  std::optional<WireCodec> answer = {};  // of the parameters; none: that of reply_codec()
};

struct ParamsHeader {
  std::uint32_t worker = 0;
  std::uint64_t step = 0;
  std::uint32_t chunk = 0;
  WireCodec codec = WireCodec::kF32;
  std::uint64_t version = 0;
  std::uint64_t lag = 0;
  std::uint64_t staleness = 0;
  std::uint64_t chunks = 1;
  bool unchanged = false;
};

struct OkHeader {
  std::uint32_t worker = 0;
  std::uint64_t step = 0;
  std::uint32_t chunk = 0;
  bool taken = false;
  std::uint64_t number = 0;
};

struct ErrorHeader {
  std::string_view code = {};  // at most 64 characters; lies in what was read, as text does
  std::string_view text = {};
  std::uint32_t worker = 0;
  std::uint64_t step = 0;
  std::uint32_t chunk = 0;
  std::uint64_t clock = 0;
};

// These read a header. They give nothing (read_answer() a monostate) for any other verb, and for
// whatever leash.ps.wire.frames.decode would refuse, which then says why. What they give, decode
// gives too. A codec that no WireCodec stands for is nothing to them either.
std::optional<PushHeader> read_push(std::span<const std::byte> header);
using Answer = std::variant<std::monostate, ParamsHeader, OkHeader, ErrorHeader>;
Answer read_answer(std::span<const std::byte> header);

// A header that was written, byte for byte as leash.ps.wire.frames.encode would.
class HeaderBytes {
 public:
  explicit HeaderBytes(const PushHeader& header);
  explicit HeaderBytes(const ParamsHeader& header);
  explicit HeaderBytes(const OkHeader& header);
  // Cuts a text that is longer than an error may have.
  explicit HeaderBytes(const ErrorHeader& header);

  std::span<const std::byte> bytes() const { return {bytes_.data(), nbytes_}; }

 private:
  std::array<std::byte, kMaxHeaderNbytes> bytes_;
  std::size_t nbytes_ = 0;
};

}  // namespace leash
