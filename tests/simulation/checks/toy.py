"""A model whose gradients are whole numbers, so that every sum of them is exact in f32 and f64.

::

    group of parameters, 32 values    0-7      by rank: how many pushes were applied
                                      8-15     by rank: the sum of their steps, modulo 8
                                      16-31    the next gradient depends on the first of these
    group of buffers, 8 values        who pushed last, and which step

The learning rate is 1. So the parameters tell by themselves which pushes they have seen, and
whoever computes with other parameters than it was answered gives itself away by its gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import floor
from struct import Struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from leash.ps.wire.layout import Chunk, Layout, Slot

MOST_WORKERS: Final = 8
VALUES: Final = 32
BUFFER_VALUES: Final = 8
STATE: Final = 16  # the gradient depends on the first of these
CHUNK_NBYTES: Final = 65536
UNPACK: Final = Struct("<f").unpack_from

# Each group of slots is one chunk. Neighbours of the same dtype travel as one run in a segment.
LAYOUTS: Final = (
    Layout([Slot("w", "f32", (VALUES,))]),
    Layout([Slot("w", "f32", (VALUES,)), Slot("mean", "f32", (BUFFER_VALUES,), "buffer")]),
    Layout([Slot("w", "f32", (VALUES,)), Slot("d", "f64", (VALUES,))]),
    Layout(
        [
            Slot("w", "f32", (VALUES,)),
            Slot("d", "f64", (VALUES,)),
            Slot("mean", "f32", (BUFFER_VALUES,), "buffer"),
            Slot("count", "f64", (BUFFER_VALUES,), "buffer"),
        ]
    ),
)

DTYPES: Final = {"f32": np.dtype("<f4"), "f64": np.dtype("<f8")}
Slab = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]

STEPS: Final = 24  # after so many the gradients come again
STATES: Final = 4


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a worker pushes in a step."""

    slab: Slab
    raw: list[bytes]  # by chunk
    values: list[Values | None]  # likewise; None: its slot has no gradient


class Toy:
    """The model of one rank. What it pushes follows from the step and from one parameter."""

    def __init__(self, chunks: Sequence[Chunk], rank: int) -> None:
        self.rank: Final = rank
        self._chunks: Final = chunks
        self._nbytes: Final = max(chunk.stop for chunk in chunks)
        self._place: Final = chunks[0].start + STATE * 4
        self._made: Final[dict[tuple[int, int, bool], Gradients]] = {}

    def gradients(self, parameters: Slab, step: int, *, is_absent: bool = False) -> Gradients:
        """What this worker pushes in a step that begins with these parameters.

        Args:
            parameters: a slab.
            step: its number.
            is_absent: whether the first slot has no gradient.
        """
        number = UNPACK(parameters, self._place)[0]
        key = step % STEPS, floor(number) % STATES, is_absent
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(*key)
        return made

    def _make(self, step: int, state: int, is_absent: bool) -> Gradients:
        slab = np.zeros(self._nbytes, np.uint8)
        for chunk in self._chunks:
            values, rank = view(chunk, slab), self.rank
            if is_absent and chunk.index == 0:
                continue
            if chunk.kind == "buffer":
                values[:] = rank
                values[0] = step
                continue
            values[rank - 1] = -1.0
            values[MOST_WORKERS + rank - 1] = -float(step % 8)
            values[STATE:] = (np.arange(VALUES - STATE) * 5 + rank * 3 + step + state) % 3 - 1
        values: list[Values | None] = [view(chunk, slab) for chunk in self._chunks]
        raw = [slab[chunk.start : chunk.stop].tobytes() for chunk in self._chunks]
        if is_absent:
            values[0] = None
        return Gradients(slab, raw, values)


@cache
def toy_of(layout: int, rank: int) -> Toy:
    """The model of a rank, whose gradients are worked out once for all runs."""
    return Toy(LAYOUTS[layout].cut(CHUNK_NBYTES), rank)


def view(chunk: Chunk, slab: Slab) -> Values:
    """A chunk's values in a slab."""
    return slab[chunk.start : chunk.stop].view(DTYPES[chunk.dtype])


def first_values(chunks: Sequence[Chunk], slab: Slab) -> None:
    """Fills a slab with the values that training begins with."""
    slab[:] = 0
    for chunk in chunks:
        if chunk.kind == "parameter":
            view(chunk, slab)[STATE:] = np.arange(VALUES - STATE) % 3 - 1
