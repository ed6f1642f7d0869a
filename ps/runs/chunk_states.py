"""The state of each chunk beside its numbers, as a checkpoint has it: version, clocks, counts.

A model may be cut into other chunks when a run goes on, since ``--chunk-kib`` is free.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.wire.layout import Layout, Piece
from leash.ps.wire.messages import U63_MAX

LEAST_NBYTES: Final = 1024  # a chunk may have any multiple of it


@dataclass(frozen=True, slots=True)
class ChunkClocks:
    """The clocks of one chunk.

    Attributes:
        least: the smallest of any live worker; the last there was if none is live.
        by_worker: rank ▸ how many of its steps were applied to the chunk, for the live workers.
    """

    least: int
    by_worker: dict[int, int]

    @property
    def largest(self) -> int:
        """The largest of them."""
        return max(self.least, *self.by_worker.values(), 0)


@dataclass(frozen=True, slots=True)
class ChunkState:
    """What a chunk's updates have left beside its numbers.

    Attributes:
        version: how many updates it has seen.
        clocks: how many of each worker's steps.
        updates: how many updates each of its pieces has seen; empty for a chunk of buffers.
    """

    version: int
    clocks: ChunkClocks
    updates: list[int]


@dataclass(frozen=True, slots=True)
class SavedChunks:
    """The states of all chunks in a file.

    Attributes:
        nbytes: the size of a chunk, by which the model was cut.
        states: of the chunks, in their order.
    """

    nbytes: int
    states: Sequence[ChunkState]

    @property
    def version(self) -> int:
        """How many updates the model had seen; the largest over the chunks."""
        return max(state.version for state in self.states)

    @property
    def step(self) -> int:
        """The step after which a run goes on: that of all chunks, or else the largest clock.

        Between two steps a worker may have pushed the next one to some chunks, which wait for the
        others and have not applied it.
        """
        if self.is_between_steps:
            return self.states[0].clocks.least
        return max(state.clocks.largest for state in self.states)

    @property
    def is_between_steps(self) -> bool:
        """Whether all chunks are at the same step."""
        return len({state.clocks.least for state in self.states}) == 1

    def as_json(self) -> str:
        """The form in which a checkpoint has them."""
        workers = sorted({worker for state in self.states for worker in state.clocks.by_worker})
        return json.dumps({
            "nbytes": self.nbytes,
            "versions": [state.version for state in self.states],
            "least_clocks": [state.clocks.least for state in self.states],
            "clocks": {
                worker: [state.clocks.by_worker.get(worker) for state in self.states]
                for worker in workers
            },
            "updates": [state.updates for state in self.states],
        })  # fmt: skip

    @classmethod
    def of(cls, metadata: Mapping[str, str], layout: Layout, chunk_nbytes: int) -> "SavedChunks":
        """Reads them from the metadata of a checkpoint.

        Args:
            metadata: of the file, of format 1 or 2.
            layout: of the model.
            chunk_nbytes: the size of its chunks now, which a file of format 1 does not tell.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: that is not what a checkpoint has.
        """
        if "chunks" not in metadata:
            return _of_format_1(metadata, layout, chunk_nbytes)
        told = json.loads(metadata["chunks"])
        nbytes = counted(told["nbytes"])
        if nbytes < LEAST_NBYTES or nbytes % LEAST_NBYTES:
            raise ValueError(f"chunks: expected a multiple of {LEAST_NBYTES} bytes, got {nbytes}")
        cut = _pieces(layout, nbytes)
        lists = (told["versions"], told["least_clocks"], told["updates"], *told["clocks"].values())
        if any(len(values) != len(cut) for values in lists):
            raise ValueError(f"chunks: expected the state of each of {len(cut)}")
        return cls(nbytes, [_state(told, index, len(pieces)) for index, pieces in enumerate(cut)])

    def for_model(self, layout: Layout, chunk_nbytes: int) -> list[tuple[int, list[int]]]:
        """Gives the version of each chunk, and how many updates each of its pieces has seen.

        Where the model is cut into other chunks now, each gets the largest numbers of all: its
        version, and the counts of its slots.
        """
        if self.nbytes == chunk_nbytes:
            return [(state.version, state.updates) for state in self.states]
        updates = [0] * len(layout.slots)
        for state, pieces in zip(self.states, _pieces(layout, self.nbytes), strict=True):
            for piece, number in zip(pieces, state.updates, strict=True):
                updates[piece.slot] = max(updates[piece.slot], number)
        return [
            (self.version, [updates[piece.slot] for piece in pieces])
            for pieces in _pieces(layout, chunk_nbytes)
        ]


def _state(told: Mapping[str, Any], index: int, pieces: int) -> ChunkState:
    by_worker = {
        int(worker): counted(clocks[index])
        for worker, clocks in told["clocks"].items()
        if clocks[index] is not None
    }
    updates = [counted(number) for number in told["updates"][index]]
    if len(updates) != pieces:
        raise ValueError(f"chunks: expected a count for each of {pieces} slots")
    clocks = ChunkClocks(counted(told["least_clocks"][index]), by_worker)
    return ChunkState(counted(told["versions"][index]), clocks, updates)


def counted(told: Any) -> int:
    """Reads a count. Raises ValueError if it is none."""
    number = int(told)
    if not 0 <= number <= U63_MAX:
        raise ValueError(f"expected a count, got {number}")
    return number


def _pieces(layout: Layout, chunk_nbytes: int) -> list[list[Piece]]:
    """The pieces of each chunk, if the model is cut like that; none for one of buffers."""
    return [
        layout.pieces(chunk) if chunk.kind == "parameter" else []
        for chunk in layout.cut(chunk_nbytes)
    ]


def _of_format_1(metadata: Mapping[str, str], layout: Layout, chunk_nbytes: int) -> SavedChunks:
    version, slots = counted(metadata.get("version", "0")), len(layout.slots)
    told = metadata.get("updates")
    updates = [version] * slots if told is None else [counted(number) for number in told.split()]
    if len(updates) != slots:
        raise ValueError(f"updates: expected a count for each of {slots} slots")
    return SavedChunks(chunk_nbytes, [
        ChunkState(version, ChunkClocks(0, {}), [updates[piece.slot] for piece in pieces])
        for pieces in _pieces(layout, chunk_nbytes)
    ])  # fmt: skip
