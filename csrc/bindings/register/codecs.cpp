#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/array_view.h"
#include "bindings/buffer_view.h"
#include "bindings/choices.h"
#include "bindings/register.h"
#include "core/codecs/codec.h"
#include "core/codecs/encode.h"

namespace py = pybind11;

namespace leash::bindings {
namespace {

Codec encoded_codec(const std::string& name) {
  const Codec codec = value_in(kCodecs, "codec", name);
  if (codec != Codec::kRaw) return codec;
  throw std::invalid_argument("codec: raw is the values themselves");
}

std::uint32_t checked_block(std::size_t block) {
  if (block <= kMaxInt8Block && is_int8_block(static_cast<std::uint32_t>(block))) {
    return static_cast<std::uint32_t>(block);
  }
  throw std::invalid_argument("block: expected a power of two from 64 to 65536, got " +
                              std::to_string(block));
}

std::size_t checked_k(std::size_t k, std::size_t values) {
  if (k <= max_topk(values)) return k;
  throw std::invalid_argument("k: expected at most " + std::to_string(max_topk(values)) + " of " +
                              std::to_string(values) + " values, got " + std::to_string(k));
}

std::size_t payload_nbytes(const std::string& codec, std::size_t values, std::size_t block,
                           std::size_t k) {
  switch (encoded_codec(codec)) {
    case Codec::kInt8:
      return int8_nbytes(values, checked_block(block));
    case Codec::kTopk:
      return kTopkNbytes * checked_k(k, values);
    default:
      return kHalfNbytes * values;
  }
}

// The beginning of a buffer. Throws ValueError unless it holds at least so many bytes.
std::byte* checked_room(const BufferView& out, std::size_t nbytes) {
  if (out.nbytes() >= nbytes) return out.data();
  throw std::invalid_argument("out: expected at least " + std::to_string(nbytes) + " bytes, got " +
                              std::to_string(out.nbytes()));
}

std::size_t encode_half(const std::string& codec, const Array<float>& values, const py::buffer& out,
                        const std::optional<std::string>& isa) {
  const Codec half = encoded_codec(codec);
  if (half != Codec::kBf16 && half != Codec::kF16) {
    throw std::invalid_argument("codec: expected 'bf16' 'f16', got '" + codec + "'");
  }
  const auto n = static_cast<std::size_t>(values.size());
  const float* const from = checked_aligned(values.data(), "values");
  const BufferView view(out, Access::kWrite, "out");
  std::byte* const to = checked_room(view, kHalfNbytes * n);
  const Kernels& loops = kernels_named(isa);
  py::gil_scoped_release without_gil;
  leash::encode_half(half, from, n, to, loops);
  return kHalfNbytes * n;
}

std::size_t encode_int8(const Array<float>& gradient, Array<float> residual, const py::buffer& out,
                        std::size_t block, std::uint64_t seed,
                        const std::optional<std::string>& isa) {
  const auto n = static_cast<std::size_t>(gradient.size());
  const float* const from = checked_aligned(gradient.data(), "gradient");
  float* const rest = checked_values(residual, gradient.size(), "residual");
  const std::uint32_t checked = checked_block(block);
  const BufferView view(out, Access::kWrite, "out");
  std::byte* const to = checked_room(view, int8_nbytes(n, checked));
  const Kernels& loops = kernels_named(isa);
  py::gil_scoped_release without_gil;
  return leash::encode_int8(from, rest, n, checked, seed, to, loops);
}

std::size_t encode_topk(const Array<float>& gradient, Array<float> residual, const py::buffer& out,
                        std::size_t k, const std::optional<std::string>& isa) {
  const auto n = static_cast<std::size_t>(gradient.size());
  const float* const from = checked_aligned(gradient.data(), "gradient");
  float* const rest = checked_values(residual, gradient.size(), "residual");
  const BufferView view(out, Access::kWrite, "out");
  std::byte* const to = checked_room(view, kTopkNbytes * checked_k(k, n));
  const Kernels& loops = kernels_named(isa);
  py::gil_scoped_release without_gil;
  return leash::encode_topk(from, rest, n, k, to, loops);
}

void decode(const std::string& codec, const py::buffer& payload, Array<float> out,
            std::size_t begin, std::optional<std::size_t> values,
            const std::optional<std::string>& isa) {
  const auto n = static_cast<std::size_t>(out.size());
  const std::size_t all = values.value_or(n);
  if (begin > all || n > all - begin) {
    throw std::invalid_argument("out: expected at most the values after begin");
  }
  float* const to = checked_values(out, out.size(), "out");
  const BufferView view(payload, Access::kRead, "payload");
  const Codec known = encoded_codec(codec);
  const Kernels& loops = kernels_named(isa);
  py::gil_scoped_release without_gil;
  leash::decode(parse(known, view.data(), view.nbytes(), all, sizeof(float)), begin, n, to, loops);
}

std::optional<std::size_t> find_nonfinite(const std::string& codec, const py::buffer& payload,
                                          std::size_t values) {
  const BufferView view(payload, Access::kRead, "payload");
  const Codec known = encoded_codec(codec);
  py::gil_scoped_release without_gil;
  return leash::find_nonfinite(parse(known, view.data(), view.nbytes(), values, sizeof(float)));
}

// The class that Python sees the codecs in, as for the kernels.
struct CodecGroup {};

}  // namespace

void register_codecs(py::module_& m) {
  const auto isa = py::arg("isa") = py::none();
  py::class_<CodecGroup>(m, "codecs", R"(Encodes f32 values as payloads, and decodes payloads.

A codec is one of bf16, f16, int8, topk. Values, gradients and residuals are contiguous float32
arrays, which are never converted; a residual and `out` are changed in place. A payload is any
contiguous buffer, and may be unaligned. To encode, it may be larger than needed: the codec writes
from its first byte on, and the number of bytes is returned.

isa is one of instruction_sets(), by default the one in use. All give the same bits.)")
      .def_static("nbytes", payload_nbytes, py::arg("codec"), py::arg("values"), py::kw_only(),
                  py::arg("block") = 0, py::arg("k") = 0,
                  "The size of a payload; int8 needs its block, topk its k.")
      .def_static("encode_half", encode_half, py::arg("codec"), py::arg("values").noconvert(),
                  py::arg("out"), py::kw_only(), isa,
                  R"(Writes values in bf16 or f16, rounded to nearest even.

A finite value beyond 65504 becomes 65504 in f16.)")
      .def_static(
          "encode_int8", encode_int8, py::arg("gradient").noconvert(),
          py::arg("residual").noconvert(), py::arg("out"), py::arg("block"), py::arg("seed"),
          py::kw_only(), isa,
          R"(Writes gradient + residual in 8 bits for each value; the error becomes the residual.

`block` values, a power of two from 64 to 65536, share a scale, their largest magnitude / 127.
Each is rounded up or down at random, such that its mean is right; `seed` should differ from push
to push and from chunk to chunk. Sources: Alistarh et al. 2017, QSGD, arXiv:1610.02132;
Karimireddy et al. 2019, error feedback, arXiv:1901.09847.)")
      .def_static(
          "encode_topk", encode_topk, py::arg("gradient").noconvert(),
          py::arg("residual").noconvert(), py::arg("out"), py::arg("k"), py::kw_only(), isa,
          R"(Writes the k largest values of gradient + residual; the others become the residual.

k is at most half of the values. Of equal ones, the first are sent. Source: Stich et al. 2018,
arXiv:1809.07599.)")
      .def_static("decode", decode, py::arg("codec"), py::arg("payload"),
                  py::arg("out").noconvert(), py::kw_only(), py::arg("begin") = 0,
                  py::arg("values") = py::none(), isa,
                  R"(Checks the payload of a chunk, and fills out with its values from `begin` on.

values: how many the chunk has, by default as many as out. Raises ValueError for a payload that
is not well formed.)")
      .def_static("find_nonfinite", find_nonfinite, py::arg("codec"), py::arg("payload"),
                  py::arg("values"),
                  R"(The index of the first NaN or infinity; of int8, of its block's first value.

Raises ValueError for a payload that is not well formed.)");
}

}  // namespace leash::bindings
