"""What a worker trains on next: pieces of work, from a plan."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from leash.worker.datasets import Positions, epoch_order


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples to train on, one batch after the other."""

    epoch: int  # that they belong to, from 1
    positions: Positions  # in the training split, in the order in which to visit them
    batch_size: int
    local_steps: int  # a worker's own steps between two pushes; what is left at the end is pushed
    begins_at: int  # samples of the epoch that come before it, out of
    epoch_samples: int  # so many


class Work(Protocol):
    """Where pieces come from. The next one is asked for when all of the last one is pushed."""

    def pieces(self) -> Iterator[Piece]: ...

    def is_held(self) -> bool:
        """The newest piece is this worker's still; otherwise others train on what is left of it."""
        ...


class StaticWork:
    """A fixed share of the data, in another order every epoch."""

    def __init__(
        self, share: Positions, *, seed: int, rank: int, first_epoch: int, epochs: int,
        batch_size: int, local_steps: int,
    ) -> None:  # fmt: skip
        self._share: Final = share
        self._seed: Final = seed
        self._rank: Final = rank
        self._epochs: Final = range(first_epoch, epochs + 1)
        self._batch_size: Final = batch_size
        self._local_steps: Final = local_steps

    def pieces(self) -> Iterator[Piece]:
        """One for each epoch."""
        for epoch in self._epochs:
            order = epoch_order(self._share, self._seed, self._rank, epoch)
            yield Piece(epoch, order, self._batch_size, self._local_steps, 0, len(order))

    def is_held(self) -> bool:
        return True
