"""The model as one process of the server keeps it: its layout, and the numbers of some chunks."""

import os
from collections.abc import Collection
from typing import Final

from leash.ps._core import ChunkSpec, Nonfinite, SgdOptions, Shard, ShardEngine
from leash.ps._core import Rule as CoreRule
from leash.ps.errors import LayoutError, TooManyError, UnknownChunkError, UsageError
from leash.ps.options.optimizer import (
    OptimizerGroup,
    core_options,
    core_schedule,
    optimizer_on_server,
    with_rates,
)
from leash.ps.options.rule import (
    UNSOFTENED,
    StalenessGroup,
    core_compensation,
    core_staleness_rate,
)
from leash.ps.policy import Rule
from leash.ps.runs.chunk_states import ChunkClocks, ChunkState
from leash.ps.runs.snapshot import ChunkMoment
from leash.ps.wire.layout import Chunk, Layout, assign
from leash.ps.wire.messages import U32_MAX

NEWCOMER: Final = U32_MAX  # no worker's rank: it holds a place until a worker takes it
_NONFINITE: Final = {
    "raise": Nonfinite.RAISE, "skip": Nonfinite.SKIP, "apply": Nonfinite.APPLY,
}  # fmt: skip


class ServedModel:
    """The layout and chunks of a run's model, and the numbers of one shard."""

    def __init__(
        self, layout: Layout, chunk_nbytes: int, options: OptimizerGroup, rule: Rule, *,
        softened: StalenessGroup = UNSOFTENED, shard: int = 0, shards: int = 1, threads: int = 1,
    ) -> None:  # fmt: skip
        """Makes a shard for the chunks of its own, without values.

        Args:
            layout: of the whole model.
            chunk_nbytes: the most that a chunk has.
            options: the optimizer and its settings.
            rule: who waits for whom.
            softened: what becomes of stale updates.
            shard: whose chunks to hold, from 0.
            shards: how many there are.
            threads: how many share the work on a large chunk.

        Raises:
            LayoutError: the model needs more memory than this host has.
            TooManyError: more threads are asked for than can start.
            UsageError: see `core_options`.
            ValueError: see `core_options`.
        """
        if layout.nbytes > _host_memory_nbytes():
            raise _does_not_fit(layout)
        self.optimizer: Final = optimizer_on_server(options)
        self.layout: Final = layout
        self.chunk_nbytes: Final = chunk_nbytes
        self.chunks: Final = layout.cut(chunk_nbytes)
        self.first_chunks: Final = assign(self.chunks, shards)
        first, stop = [*self.first_chunks, len(self.chunks)][shard : shard + 2]
        self.own: Final = self.chunks[first:stop]  # the chunks that this process holds
        divided = layout.divided(self.chunks)
        specs = [_spec_of(chunk, layout, divided) for chunk in self.own]
        self._nonfinite: Final = _NONFINITE[options.nonfinite]
        try:
            self.shard: Final = Shard(
                specs,
                core_options(options),
                rule=rule.core(),
                nonfinite=self._nonfinite,
                scale_lr=with_rates(options).lr_scaling
                == "linear",  # the core scales the rate of means only
                schedule=core_schedule(options),
                first_chunk=first,
                threads=threads,
                staleness_rate=core_staleness_rate(softened),
                compensation=core_compensation(softened),
            )
        except MemoryError as error:
            raise _does_not_fit(layout) from error
        except OSError as error:
            raise TooManyError(f"this server lacks room for its threads: {error}") from error

    def chunk(self, index: int) -> Chunk:
        """Finds a chunk; UnknownChunkError if the model has none, or another shard has it."""
        if not self.own:
            raise UnknownChunkError(f"chunk {index}: this shard has no chunk at all")
        first = self.own[0].index
        if not first <= index < first + len(self.own):
            raise UnknownChunkError(f"chunk {index}: expected {first} to {self.own[-1].index}")
        return self.chunks[index]

    def engine(self) -> ShardEngine:
        """Makes the engine that takes pushes to this process's chunks. There can be one."""
        return ShardEngine(
            self.shard,
            slab_nbytes=self.layout.nbytes,
            first_chunk=self.own[0].index if self.own else len(self.chunks),
            starts=[chunk.start for chunk in self.own],
            slot_names=[slot.name for slot in self.layout.slots],
            nonfinite=self._nonfinite,
        )

    def shard_of(self, chunk: int) -> Shard:
        """The shard that holds this chunk's numbers."""
        return self.shard

    @property
    def version(self) -> int:
        """How many updates this process's chunks have seen; the largest of them."""
        return max((self.shard.version(chunk.index) for chunk in self.own), default=0)

    def clocks(self, chunk: int) -> ChunkClocks:
        """The clocks of a chunk of this process."""
        shard = self.shard
        by_worker = {w: shard.clock(chunk, w) for w in shard.workers() if w != NEWCOMER}
        return ChunkClocks(shard.minimum(chunk), by_worker)

    def open_snapshot(self) -> list[ChunkMoment]:
        """Opens a snapshot of this process's chunks: see leash.ps.runs.snapshot."""
        moments = []
        for chunk, moment in zip(self.own, self.shard.open_snapshot(), strict=True):
            version, least, clocks, updates, has_buffers = moment
            by_worker = {worker: clock for worker, clock in clocks if worker != NEWCOMER}
            counts = updates if chunk.kind == "parameter" else []
            state = ChunkState(version, ChunkClocks(least, by_worker), counts)
            moments.append(ChunkMoment(state, has_buffers))
        return moments

    def read_snapshot(self, chunk: int, array: int, begin: int, out: memoryview) -> bool:
        """Copies bytes of a chunk, which are there at once."""
        self.shard.read_snapshot(chunk, array, begin, out)
        return True

    def release_snapshot(self, chunk: int) -> None:
        """Lets go of a chunk that was read."""
        self.shard.release_snapshot(chunk)

    def close_snapshot(self) -> None:
        """Lets go of all of it."""
        self.shard.close_snapshot()

    def begin_at(self, clock: int) -> None:
        """Has the first workers begin after this clock. REQUIRES: none takes part yet."""
        if self.own:
            self.shard.join(NEWCOMER, clock)
            self.shard.leave(NEWCOMER)

    @property
    def state_names(self) -> list[str]:
        """The names of the optimizer's buffers."""
        return self.shard.state_names()

    @property
    def initialized(self) -> bool:
        """Whether every chunk of this process has values."""
        return self.shard.initialized_chunks == len(self.own)


def require_threads(threads: int) -> None:
    """Tries whether this number of threads can start: starts them, as a shard does, and ends them.

    Raises:
        UsageError: they cannot start on this host, or within its limits for this process.
    """
    try:
        Shard([], SgdOptions(), rule=CoreRule(), nonfinite=Nonfinite.RAISE, threads=threads)
    except (OSError, MemoryError) as error:
        raise UsageError(f"--threads {threads}: {error}; give a smaller number") from error


def _spec_of(chunk: Chunk, layout: Layout, divided: Collection[int]) -> ChunkSpec:
    pieces = layout.pieces(chunk)
    return ChunkSpec(
        chunk.values, chunk.dtype, chunk.kind, [piece.values for piece in pieces],
        [piece.slot for piece in pieces],
        [0 if p.slot in divided else layout.slots[p.slot].row_values for p in pieces],
    )  # fmt: skip


def _does_not_fit(layout: Layout) -> LayoutError:
    return LayoutError(f"a model of {layout.nbytes} bytes does not fit into this server's memory")


def _host_memory_nbytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
