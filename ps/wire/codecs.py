"""How numbers are written in a payload: one visible table."""

from dataclasses import dataclass
from typing import Final

from ps.errors import HeaderError, PayloadSizeError
from ps.layout import Chunk


@dataclass(frozen=True, slots=True)
class Codec:
    name: str
    dtype: str  # of the chunks that it can carry
    value_nbytes: int
    core: str = "raw"

    @property
    def reply(self) -> str:
        return self.name

    def nbytes(self, values: int) -> int:
        return values * self.value_nbytes


F32: Final = Codec("f32", "f32", 4)  # IEEE 754 binary32, little-endian
F64: Final = Codec("f64", "f64", 8)  # IEEE 754 binary64, little-endian

CODECS: Final = {codec.name: codec for codec in (F32, F64)}


def codec_for(name: str, chunk: Chunk) -> Codec:
    """The codec that a header names, if it can carry this chunk; HeaderError otherwise."""
    codec = CODECS.get(name)
    if codec is None or codec.dtype != chunk.dtype:
        known = ", ".join(c.name for c in CODECS.values() if c.dtype == chunk.dtype)
        raise HeaderError(f"chunk {chunk.index} holds {chunk.dtype}: expected codec {known}, "
                          f"got {name!r}")  # fmt: skip
    return codec


def check_size(chunk: Chunk, codec: Codec, nbytes: int) -> None:
    """Raises PayloadSizeError unless `nbytes` is the size of this chunk in this codec."""
    expected = codec.nbytes(chunk.values)
    if nbytes != expected:
        raise PayloadSizeError(
            f"chunk {chunk.index}: expected {expected} bytes "
            f"({codec.name}, {chunk.values} values), got {nbytes}"
        )
