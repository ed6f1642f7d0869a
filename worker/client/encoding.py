"""A gradient in the codec of the run, with what rounding left over added to the next one.

Error feedback: Karimireddy et al. 2019, "Error Feedback Fixes SignSGD and other Gradient
Compression Schemes", arXiv:1901.09847, algorithm 2.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

import leash.ps._core as core
from leash.ps.wire.codecs import CODECS, max_topk
from leash.ps.wire.layout import Chunk
from leash.ps.wire.limits import check_encoding
from leash.worker.client.memory import Slab, SlabMemory

RAW: Final = ("f32", "f64")
WITH_FEEDBACK: Final = ("int8", "topk")


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec and its settings."""

    codec: str = "f32"
    int8_block: int = 256  # values that share a scale
    topk_ratio: float = 0.01  # of a chunk's values that are sent

    def __post_init__(self) -> None:
        check_encoding(self.codec, self.int8_block, self.topk_ratio)


class Encoder:
    """Writes chunks in their codec, into the outbox of a worker's memory."""

    def __init__(self, encoding: Encoding, worker: int, memory: SlabMemory) -> None:
        """Args:
        worker: the rank; two workers round their gradients differently.
        memory: with an outbox, unless the codec is f32.
        """
        self._encoding: Final = encoding
        self._worker: Final = worker
        self._memory: Final = memory
        keeps_rest = encoding.codec in WITH_FEEDBACK
        self.residual: Final[Slab] = np.zeros(memory.map.slab_nbytes if keeps_rest else 0, np.uint8)

    def codec_of(self, chunk: Chunk) -> str:
        """The codec in which this chunk travels: buffers and double precision travel raw."""
        fits = chunk.kind == "parameter" and chunk.dtype == "f32"
        return self._encoding.codec if fits else chunk.dtype

    def payload(self, chunk: Chunk, gradients: Slab, step: int) -> Slab:
        """The chunk's part of `gradients` as it travels: a view of it, or of the outbox."""
        codec, values = self.codec_of(chunk), gradients[chunk.start : chunk.stop]
        if codec in RAW:
            return values
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
        """Another for every worker, step and chunk, and the same in every run."""
        mixed = np.random.SeedSequence([self._worker, step, chunk.index]).generate_state(
            1, np.uint64
        )
        return int(mixed[0])


def decode_params(codec: str, payload: Slab, values: Slab) -> None:
    """Writes the numbers of a `params` payload to `values`, a part of a slab.

    Raises:
        ValueError: a payload of another size.
    """
    if codec in RAW:
        values[:] = payload
    else:
        core.codecs.decode(codec, payload.data, _f32(values))


def _f32(memory: Slab) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return memory.view(np.float32)
