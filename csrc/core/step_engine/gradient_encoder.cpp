#include "core/step_engine/gradient_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/require.h"
#include "core/codecs/encode.h"
#include "core/step_engine/rounding_seed.h"

namespace leash {
namespace {

// Calls use(begin, nbytes) for the place in a slab of each piece that the bits name.
template <typename Use>
void for_absent(const StepChunk& chunk, std::string_view absent, Use&& use) {
  for (std::size_t place = 0; place < chunk.pieces.size(); ++place) {
    const StepPiece& piece = chunk.pieces[place];
    if (names_piece(absent, place)) use(piece.start, piece.values * size_of(chunk.dtype));
  }
}

}  // namespace

bool has_residual(WireCodec codec) {
  return codec == WireCodec::kInt8 || codec == WireCodec::kTopk;
}

GradientEncoder::GradientEncoder(const EncodingSettings& settings, std::uint32_t worker,
                                 std::byte* residual)
    : settings_(settings),
      worker_(worker),
      residual_(residual),
      kernels_(kernels_for(instruction_set())) {
  require(is_int8_block(settings.int8_block), "int8_block", settings.int8_block,
          "a power of two from 64 to 65536");
  require(settings.topk_ratio > 0.0 && settings.topk_ratio <= 0.5, "topk_ratio",
          settings.topk_ratio, "a number above 0, and at most 0.5");
}

WireCodec GradientEncoder::codec_of(const StepChunk& chunk) const {
  const bool fits = chunk.is_parameters && chunk.dtype == Dtype::kF32;
  return fits ? settings_.codec : raw_codec(chunk.dtype);
}

std::optional<WireCodec> GradientEncoder::answer_of(const StepChunk& chunk, WireCodec codec) const {
  if (!settings_.answer || *settings_.answer == reply_codec(codec)) return std::nullopt;
  const bool fits = carries(*settings_.answer, chunk.dtype, chunk.is_parameters);
  return fits ? settings_.answer : std::nullopt;
}

std::size_t GradientEncoder::most_nbytes(const StepChunk& chunk) const {
  switch (codec_of(chunk)) {
    case WireCodec::kBf16:
    case WireCodec::kF16:
      return kHalfNbytes * chunk.values;
    case WireCodec::kInt8:
      return int8_nbytes(chunk.values, settings_.int8_block);
    case WireCodec::kTopk:
      return kTopkNbytes * topk_count(chunk.values);
    case WireCodec::kF32:
    case WireCodec::kF64:
      break;
  }
  return chunk.nbytes();
}

std::size_t GradientEncoder::topk_count(std::size_t values) const {
  // Of a half, the even neighbour.
  const double wanted = std::nearbyint(settings_.topk_ratio * static_cast<double>(values));
  const auto count = std::max<std::size_t>(1, static_cast<std::size_t>(wanted));
  return std::min(max_topk(values), count);
}

std::size_t GradientEncoder::encode(const StepChunk& chunk, std::uint32_t index, std::uint64_t step,
                                    const std::byte* gradients, std::string_view absent,
                                    std::byte* out) {
  const std::uint64_t seed = rounding_seed(worker_, step, index);
  if (absent.empty() || residual_ == nullptr) return write(chunk, seed, gradients, out);
  waiting_.clear();
  for_absent(chunk, absent, [&](std::size_t begin, std::size_t nbytes) {
    waiting_.insert(waiting_.end(), residual_ + begin, residual_ + begin + nbytes);
    std::memset(residual_ + begin, 0, nbytes);
  });
  const std::size_t written = write(chunk, seed, gradients, out);
  const std::byte* from = waiting_.data();
  for_absent(chunk, absent, [&](std::size_t begin, std::size_t nbytes) {
    std::memcpy(residual_ + begin, from, nbytes);
    from += nbytes;
  });
  return written;
}

std::size_t GradientEncoder::write(const StepChunk& chunk, std::uint64_t seed,
                                   const std::byte* gradients, std::byte* out) const {
  const auto* const values = reinterpret_cast<const float*>(gradients + chunk.start);
  const auto rest = [&] { return reinterpret_cast<float*>(residual_ + chunk.start); };
  if (settings_.codec == WireCodec::kInt8) {
    return encode_int8(values, rest(), chunk.values, settings_.int8_block, seed, out, kernels_);
  }
  if (settings_.codec == WireCodec::kTopk) {
    return encode_topk(values, rest(), chunk.values, topk_count(chunk.values), out, kernels_);
  }
  encode_half(core_codec(settings_.codec), values, chunk.values, out, kernels_);
  return kHalfNbytes * chunk.values;
}

}  // namespace leash
