"""The codecs, as one table: how the numbers of a payload are written.

docs/wire-format.md, section 3, describes each form byte by byte. leash.ps._core.codecs has the
loops.
"""

from dataclasses import dataclass
from typing import Final

from leash.ps._core import codecs as core
from leash.ps.errors import ArgumentError, HeaderError, PayloadSizeError
from leash.ps.wire.layout import KINDS, Chunk

CODEC_NAMES: Final = ("f32", "bf16", "f16", "int8", "topk")
ANSWER_CODECS: Final = ("f32", "bf16", "f16")  # in which parameters may be asked for
MIN_INT8_BLOCK: Final = 64  # values that share a scale, a power of two
MAX_INT8_BLOCK: Final = 65536
MAX_TOPK_RATIO: Final = 0.5  # beyond it the indices cost more than they save


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write the numbers of a chunk."""

    name: str
    dtype: str  # the dtype of the chunks that it can carry
    kinds: tuple[str, ...]  # and their kinds
    value_nbytes: int | None  # None: the size depends on the values
    reply: str  # the codec of the parameters that answer a push in this one
    core: str  # what the core calls it

    def carries(self, chunk: Chunk) -> bool:
        """Whether the codec can carry this chunk."""
        return chunk.dtype == self.dtype and chunk.kind in self.kinds

    def max_nbytes(self, values: int) -> int:
        """The largest size of a payload with this number of values."""
        if self.value_nbytes is not None:
            return values * self.value_nbytes
        if self.core == "int8":
            return core.nbytes("int8", values, block=MIN_INT8_BLOCK)
        return core.nbytes("topk", values, k=max_topk(values))


def max_topk(values: int) -> int:
    """How many of `values` topk may carry: with more than half it would be larger than f32."""
    return max(1, values // 2)


_ANY: Final = KINDS
_GRADIENTS: Final = (
    "parameter",
)  # a buffer's values are never rounded, since the newest replace the others

F32: Final = Codec("f32", "f32", _ANY, 4, reply="f32", core="raw")
F64: Final = Codec("f64", "f64", _ANY, 8, reply="f64", core="raw")
BF16: Final = Codec("bf16", "f32", _GRADIENTS, 2, reply="bf16", core="bf16")
F16: Final = Codec("f16", "f32", _GRADIENTS, 2, reply="f16", core="f16")
INT8: Final = Codec("int8", "f32", _GRADIENTS, None, reply="f32", core="int8")
TOPK: Final = Codec("topk", "f32", _GRADIENTS, None, reply="f32", core="topk")

CODECS: Final = {codec.name: codec for codec in (F32, F64, BF16, F16, INT8, TOPK)}


def codec_for(name: str, chunk: Chunk) -> Codec:
    """Finds the codec that a header names; HeaderError if it cannot carry this chunk."""
    codec = CODECS.get(name)
    if codec is None or not codec.carries(chunk):
        known = ", ".join(c.name for c in CODECS.values() if c.carries(chunk))
        raise HeaderError(f"chunk {chunk.index} holds {chunk.dtype} {chunk.kind}s: "
                          f"expected codec {known}, got {name!r}")  # fmt: skip
    return codec


def check_size(chunk: Chunk, codec: Codec, nbytes: int) -> None:
    """Raises PayloadSizeError unless `nbytes` can be the size of this chunk in this codec.

    For int8 and topk it can be anything up to the largest payload; the core checks the rest.
    """
    largest = codec.max_nbytes(chunk.values)
    if nbytes == largest or (codec.value_nbytes is None and nbytes < largest):
        return
    at_most = "at most " if codec.value_nbytes is None else ""
    raise PayloadSizeError(
        f"chunk {chunk.index}: expected {at_most}{largest} bytes "
        f"({codec.name}, {chunk.values} values), got {nbytes}"
    )


def check_encoding(
    codec: str, int8_block: int, topk_ratio: float, answer_codec: str | None = None
) -> None:
    """Raises ArgumentError for the first of these that no gradient can be written with."""
    if codec not in CODEC_NAMES:
        raise ArgumentError("codec", codec, f"take one of {', '.join(CODEC_NAMES)}")
    if not MIN_INT8_BLOCK <= int8_block <= MAX_INT8_BLOCK or int8_block & (int8_block - 1):
        raise ArgumentError(
            "int8_block", int8_block,
            f"give a power of two from {MIN_INT8_BLOCK} to {MAX_INT8_BLOCK}",
        )  # fmt: skip
    if not 0 < topk_ratio <= MAX_TOPK_RATIO:
        raise ArgumentError(
            "topk_ratio", topk_ratio, f"give a number above 0, and at most {MAX_TOPK_RATIO}"
        )
    if answer_codec is not None and answer_codec not in ANSWER_CODECS:
        raise ArgumentError("answer_codec", answer_codec, f"take one of {', '.join(ANSWER_CODECS)}")
