"""Writes gradients in the codec of the run, and adds what rounding left over to the next ones.

Error feedback: Karimireddy et al. 2019, "Error Feedback Fixes SignSGD and other Gradient
Compression Schemes", arXiv:1901.09847, algorithm 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

import leash.ps._core as core
from leash.ps.wire.codecs import CODECS, max_topk
from leash.ps.wire.layout import DTYPE_NBYTES, Chunk, Piece
from leash.ps.wire.limits import check_encoding
from leash.worker.client.memory import Slab, SlabMemory

UNCODED: Final = ("f32", "f64")
WITH_FEEDBACK: Final = ("int8", "topk")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The codec in which a worker's gradients travel, and the codec's settings.

    Attributes:
        codec: "f32", as they are; "f16" or "bf16", rounded to half the bytes, as the parameters
            are then too; "int8", rounded to a byte each, with a scale for each block; "topk", only
            those of largest magnitude. What int8 and topk leave out is added to the next gradient
            (error feedback: Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2).
        int8_block: how many values share a scale: a power of two from 64 to 65,536.
        topk_ratio: the share of a chunk's values that are sent, above 0 and at most 0.5.

    Raises:
        ArgumentError: the codec is unknown, or a setting is outside these limits.
    """

    codec: str = "f32"
    int8_block: int = 256
    topk_ratio: float = 0.01

    def __post_init__(self) -> None:
        check_encoding(self.codec, self.int8_block, self.topk_ratio)


class Encoder:
    """Writes chunks in their codec, into the outbox of a worker's memory.

    Attributes:
        residual: what rounding has left over of each value so far, laid out like a slab; empty for
            a codec without error feedback.
    """

    def __init__(self, encoding: Encoding, worker: int, memory: SlabMemory) -> None:
        """Begins with nothing left over.

        Args:
            encoding: the codec and its settings.
            worker: the rank; two workers round their gradients differently.
            memory: with an outbox, unless the codec is f32.
        """
        self._encoding: Final = encoding
        self._worker: Final = worker
        self._memory: Final = memory
        keeps_rest = encoding.codec in WITH_FEEDBACK
        self.residual: Final[Slab] = np.zeros(memory.map.slab_nbytes if keeps_rest else 0, np.uint8)

    def codec_of(self, chunk: Chunk) -> str:
        """Chooses the codec in which a chunk travels: buffers and double precision travel raw."""
        fits = chunk.kind == "parameter" and chunk.dtype == "f32"
        return self._encoding.codec if fits else chunk.dtype

    def payload(
        self, chunk: Chunk, gradients: Slab, step: int, missing: Sequence[Piece] = ()
    ) -> Slab:
        """Brings a chunk into the form in which it travels.

        Args:
            chunk: which part of `gradients`.
            gradients: a slab.
            step: the number of the push; it seeds the rounding.
            missing: the parts of the chunk that have no gradient, and hold zeros. What rounding
                left over of them waits until they have one.

        Returns:
            The payload: a view of `gradients` if the chunk travels raw, otherwise of the outbox.
        """
        codec, values = self.codec_of(chunk), gradients[chunk.start : chunk.stop]
        if codec in UNCODED:
            return values
        if missing and len(self.residual):
            parts = [_part_of(piece, chunk.dtype) for piece in missing]
            kept = [self.residual[part].copy() for part in parts]
            for part in parts:
                self.residual[part] = 0
            payload = self.payload(chunk, gradients, step)
            for part, rest in zip(parts, kept, strict=True):
                self.residual[part] = rest
            return payload
        out = self._memory.outbox(chunk.index, chunk.start, CODECS[codec].max_nbytes(chunk.values))
        if codec == "int8":
            nbytes = core.codecs.encode_int8(
                _f32(values), self._rest(chunk), out.data, self._encoding.int8_block,
                self._seed(chunk, step),
            )  # fmt: skip
        elif codec == "topk":
            wanted = max(1, round(self._encoding.topk_ratio * chunk.values))
            count = min(max_topk(chunk.values), wanted)
            nbytes = core.codecs.encode_topk(_f32(values), self._rest(chunk), out.data, count)
        else:
            core.codecs.encode_half(codec, _f32(values), out.data)
            nbytes = len(out)
        return out[:nbytes]

    def _rest(self, chunk: Chunk) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return _f32(self.residual[chunk.start : chunk.stop])

    def _seed(self, chunk: Chunk, step: int) -> int:
        """Seeds the rounding: differently for each worker, step and chunk, alike in every run."""
        mixed = np.random.SeedSequence([self._worker, step, chunk.index]).generate_state(
            1, np.uint64
        )
        return int(mixed[0])


def decode_params(codec: str, payload: Slab, values: Slab) -> None:
    """Writes the numbers of a `params` payload to a part of a slab.

    Args:
        codec: of the payload.
        payload: as it came.
        values: where the numbers go, as raw f32 or f64.

    Raises:
        ValueError: the payload has another size than these numbers in this codec.
    """
    if codec in UNCODED:
        values[:] = payload
    else:
        core.codecs.decode(codec, payload.data, _f32(values))


def _part_of(piece: Piece, dtype: str) -> slice:
    return slice(piece.start, piece.start + piece.values * DTYPE_NBYTES[dtype])


def _f32(memory: Slab) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return memory.view(np.float32)
