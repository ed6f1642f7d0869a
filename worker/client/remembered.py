"""What a worker remembers of its run, for a server that was started again and has older values."""

from collections.abc import Sequence
from dataclasses import dataclass

from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Chunk
from leash.ps.wire.messages import Offer
from leash.worker.client.memory import Slab


@dataclass(frozen=True, slots=True)
class Answered:
    """The newest parameters that a worker was answered with.

    Attributes:
        values: a slab of them. Unchanged by others as long as they may be offered.
        newest: of each chunk its version, and the step whose answer it was; 0 for a pull.
        generation: of the server that gave them.
    """

    values: Slab
    newest: Sequence[tuple[int, int]]
    generation: int

    def offers(self, chunks: Sequence[Chunk], worker: int, incarnation: int) -> list[bytes]:
        """Writes the headers that offer them, one for each chunk.

        Args:
            chunks: the layout's.
            worker: the rank.
            incarnation: of its process now.
        """
        return [
            encode(Offer(worker, incarnation, c.index, c.dtype, self.generation, version, step))
            for c, (version, step) in zip(chunks, self.newest, strict=True)
        ]


def merged(kept: Slab, answers: Slab, chunks: Sequence[Chunk], answered: Sequence[bool]) -> Slab:
    """Copies what a worker has, with those answers to an open step in it that have come.

    Args:
        kept: the parameters with which that step began.
        answers: where its answers are written.
        chunks: the layout's.
        answered: of each chunk, whether its answer has come.
    """
    values = kept.copy()
    for chunk, has_come in zip(chunks, answered, strict=True):
        if has_come:
            values[chunk.start : chunk.stop] = answers[chunk.start : chunk.stop]
    return values


class Counted:
    """Counts the samples of a worker whose steps were answered."""

    def __init__(self) -> None:
        """Begins with none."""
        self.epochs = 0  # how many it has completed of a share of its own
        self.of_epoch = 0  # samples answered since then
        self.of_lease = 0  # samples answered since it got its newest lease
        self.newest_lease = 0  # the number of that; 0: it has none of the server that it is with

    def step(self, samples: int) -> None:
        """Counts a step that was answered."""
        self.of_epoch += samples
        self.of_lease += samples

    def epoch(self, epochs: int) -> None:
        """Notes that so many epochs are completed."""
        self.epochs, self.of_epoch = epochs, 0

    def lease(self, number: int) -> None:
        """Notes that a lease of this number has come; 0: all that it had are others' now."""
        self.of_lease, self.newest_lease = 0, number
