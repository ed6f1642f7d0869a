"""Hands the numbers that a model had at one moment to a file, while the model goes on.

::

    open_snapshot ──▸ plan_of ──▸ Disk.begin ──▸ Feed.go_on, whenever the writing has room ──▸ over
    nobody may push               from here on, workers push again
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from leash.ps.runs.checkpoint_file import Plan, Tensor
from leash.ps.runs.chunk_states import ChunkState, SavedChunks
from leash.ps.runs.disk import PART_NBYTES, Writing
from leash.ps.runs.position import Position
from leash.ps.wire.layout import Chunk, Layout

FORMAT: Final = "2"


@dataclass(frozen=True, slots=True)
class ChunkMoment:
    """What a chunk had beside its numbers when a snapshot was opened.

    Attributes:
        state: its version, clocks and counts.
        has_buffers: whether the optimizer's buffers of it held something.
    """

    state: ChunkState
    has_buffers: bool


class SnapshotModel(Protocol):
    """A model that gives the numbers which it had at one moment, wherever its chunks are."""

    @property
    def layout(self) -> Layout: ...
    @property
    def chunk_nbytes(self) -> int: ...
    @property
    def chunks(self) -> tuple[Chunk, ...]: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def state_names(self) -> list[str]: ...

    def open_snapshot(self) -> list[ChunkMoment]:
        """Begins one with what all chunks have now; an earlier one is closed."""
        ...

    def read_snapshot(self, chunk: int, array: int, begin: int, out: memoryview) -> bool:
        """Copies bytes of a chunk from `begin` on.

        Args:
            chunk: its number.
            array: 0 for the parameters, i + 1 for the buffer state_names[i].
            begin: the first byte.
            out: is filled.

        Returns:
            Whether they are there; if not, they are on their way: ask for the same again later.
        """
        ...

    def release_snapshot(self, chunk: int) -> None:
        """Lets go of a chunk that was read."""
        ...

    def close_snapshot(self) -> None:
        """Lets go of all of it."""
        ...


def plan_of(
    model: SnapshotModel, moments: Sequence[ChunkMoment], position: Position,
    options: dict[str, Any] | None = None,
) -> tuple[Plan, SavedChunks]:  # fmt: skip
    """Says what the file of a snapshot will hold.

    Args:
        model: whose snapshot is open.
        moments: what its chunks had.
        position: how far the training was.
        options: of the optimizer, for people and programs that read the file.

    Returns:
        The plan, and the state of the chunks in it.
    """
    saved = SavedChunks(model.chunk_nbytes, [moment.state for moment in moments])
    # A chunk of which no slot has had a gradient yet has none; what it would begin with is saved.
    states = model.state_names if any(moment.has_buffers for moment in moments) else []
    metadata = {
        "leash_format": FORMAT,
        "version": str(saved.version),
        "optimizer": model.optimizer,
        "layout_hash": model.layout.hash,
        "layout": model.layout.pack().hex(),
        "chunks": saved.as_json(),
        "position": position.as_json(),
    }
    if options is not None:
        metadata["options"] = json.dumps(options)
    arrays = [_tensors(model.layout, ""), *(_tensors(model.layout, f"{s}/") for s in states)]
    return Plan(metadata, arrays), saved


def _tensors(layout: Layout, prefix: str) -> list[tuple[Tensor, int]]:
    """The tensors of an array, with their places in the slab: of parameters alone with a prefix."""
    return [
        (Tensor(prefix + slot.name, slot.dtype, slot.shape), offset)
        for slot, offset in zip(layout.slots, layout.offsets, strict=True)
        if not prefix or slot.kind == "parameter"
    ]


class Feed:
    """Reads a snapshot from its first chunk to its last, and hands it to a writing."""

    def __init__(self, model: SnapshotModel, writing: Writing, plan: Plan) -> None:
        """Begins with the first chunk.

        Args:
            model: whose snapshot is open.
            writing: that has begun by this plan.
            plan: of the file.
        """
        self._model: Final = model
        self._writing: Final = writing
        self._arrays: Final = len(plan.arrays)
        self._parts: Final = self._all_parts()
        self._part: tuple[Chunk, int, int, int] | None = next(self._parts, None)

    def go_on(self) -> bool:
        """Hands over as much as there is room for.

        Returns:
            Whether everything is handed over. The snapshot is closed then.

        Raises:
            ProtocolError: a shard is lost.
            MemoryError: what has changed could not be copied.
        """
        while self._part is not None:
            chunk, array, begin, nbytes = self._part
            place = self._writing.room(nbytes)
            if place is None or not self._model.read_snapshot(chunk.index, array, begin, place):
                return False
            self._writing.take(array, chunk.start + begin, nbytes)
            self._part = next(self._parts, None)
            if self._part is None or self._part[0] is not chunk:
                self._model.release_snapshot(chunk.index)
        self._model.close_snapshot()
        self._writing.finish()
        return True

    def _all_parts(self) -> Iterator[tuple[Chunk, int, int, int]]:
        """Chunk, array, first byte and number of bytes, in the order in which they are read."""
        for chunk in self._model.chunks:
            for array in range(self._arrays if chunk.kind == "parameter" else 1):
                for begin in range(0, chunk.nbytes, PART_NBYTES):
                    yield chunk, array, begin, min(PART_NBYTES, chunk.nbytes - begin)
