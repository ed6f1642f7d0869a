"""What a worker trains on next: pieces of work, here from a fixed share of the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from leash.worker.datasets import Positions, epoch_order


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples to train on, one batch after the other.

    Attributes:
        epoch: the epoch that they belong to, from 1.
        positions: in the training split, in the order in which to visit them.
        batch_size: samples of one step; the last may have fewer, or one more.
        local_steps: steps between two pushes; those left at the end of the piece are pushed too.
        begins_at: how many samples of the epoch come before this piece.
        epoch_samples: how many samples the epoch has.
    """

    epoch: int
    positions: Positions
    batch_size: int
    local_steps: int
    begins_at: int
    epoch_samples: int

    def whole_batches(self) -> Positions:
        """The positions without those at the end that do not fill a batch."""
        return self.positions[: len(self.positions) // self.batch_size * self.batch_size]


class Work(Protocol):
    """Gives a worker pieces of work; it asks for the next when all of the last one is pushed."""

    def pieces(self) -> Iterator[Piece]:
        """Gives one piece after the other, until the training is over for this worker."""
        ...

    def is_held(self) -> bool:
        """Whether the newest piece is still this worker's; if not, others train on its rest."""
        ...

    def lose(self, positions: Positions) -> None:
        """Notes samples of the newest piece whose push was lost, because of an eviction."""
        ...


class StaticWork:
    """Gives a fixed share of the data, in another order every epoch."""

    def __init__(
        self, share: Positions, *, seed: int, rank: int, first_epoch: int, epochs: int,
        batch_size: int, local_steps: int,
    ) -> None:  # fmt: skip
        """Begins with the first epoch that is left.

        Args:
            share: this worker's positions in the training split.
            seed: of the orders.
            rank: the worker's; each has orders of its own.
            first_epoch: to begin with, from 1.
            epochs: the number of the last epoch.
            batch_size: samples of one step.
            local_steps: steps between two pushes.
        """
        self._share: Final = share
        self._seed: Final = seed
        self._rank: Final = rank
        self._epochs: Final = range(first_epoch, epochs + 1)
        self._batch_size: Final = batch_size
        self._local_steps: Final = local_steps
        self._lost: list[Positions] = []

    def pieces(self) -> Iterator[Piece]:
        """Gives one piece for each epoch, the whole share, and then what was lost of it."""
        for epoch in self._epochs:
            order = epoch_order(self._share, self._seed, self._rank, epoch)
            yield Piece(epoch, order, self._batch_size, self._local_steps, 0, len(order))
            while self._lost:
                again, self._lost = np.concatenate(self._lost), []
                begins_at = len(order) - len(again)
                yield Piece(
                    epoch, again, self._batch_size, self._local_steps, begins_at, len(order)
                )

    def is_held(self) -> bool:
        """True: nobody else ever gets this share."""
        return True

    def lose(self, positions: Positions) -> None:
        """Notes samples to give again: nobody else trains on them."""
        self._lost.append(positions)
