"""The model as the server keeps it: a layout, its chunks, and the shard that holds the numbers."""

import os
from typing import Final

from ps._core import ChunkSpec, Nonfinite, Shard
from ps.errors import LayoutError, UnknownChunkError
from ps.layout import Chunk, Layout
from ps.optimizer_options import OptimizerOptions, core_options, core_schedule
from ps.policy import Rule

_NONFINITE: Final = {
    "raise": Nonfinite.RAISE, "skip": Nonfinite.SKIP, "apply": Nonfinite.APPLY,
}  # fmt: skip


class ServedModel:
    """Layout, chunks and shard of one run."""

    def __init__(
        self,
        layout: Layout,
        chunk_nbytes: int,
        options: OptimizerOptions,
        rule: Rule,
        *,
        threads: int = 1,
    ) -> None:
        """Raises:
        LayoutError: more memory than this host has.
        UsageError, ValueError: see `core_options`.
        """
        if layout.nbytes > _host_memory_nbytes():
            raise _does_not_fit(layout)
        self.optimizer: Final = options.optimizer
        self.layout: Final = layout
        self.chunk_nbytes: Final = chunk_nbytes
        self.chunks: Final = layout.cut(chunk_nbytes)
        specs = [ChunkSpec(values=c.values, dtype=c.dtype, kind=c.kind) for c in self.chunks]
        try:
            self.shard: Final = Shard(
                specs,
                core_options(options),
                bound=rule.bound,
                average=rule.policy.average,
                nonfinite=_NONFINITE[options.nonfinite],
                scale_lr=rule.policy.average and options.lr_scaling == "linear",
                schedule=core_schedule(options),
                threads=threads,
            )
        except MemoryError as error:
            raise _does_not_fit(layout) from error

    def chunk(self, index: int) -> Chunk:
        """Raises UnknownChunkError if the model has no such chunk."""
        if index >= len(self.chunks):
            raise UnknownChunkError(f"chunk {index}: expected 0 to {len(self.chunks) - 1}")
        return self.chunks[index]

    @property
    def initialized(self) -> bool:
        return self.shard.initialized_chunks == len(self.chunks)


def _does_not_fit(layout: Layout) -> LayoutError:
    return LayoutError(f"a model of {layout.nbytes} bytes does not fit into this server's memory")


def _host_memory_nbytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
