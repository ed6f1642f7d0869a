"""What a worker trains on next: pieces of work, here from a fixed share of the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

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
        """Whether the worker is to go on with the newest piece."""
        ...

    def lose(self, taken: int) -> None:
        """Notes that an eviction lost samples of the newest piece, and has the worker drop it.

        Args:
            taken: how many of its samples the server has answered; those after them were lost.
        """
        ...


class StaticWork:
    """Gives a fixed share of the data, in another order every epoch."""

    def __init__(
        self, share: Positions, *, seed: int, rank: int, completed: int, begins_at: int,
        epochs: int, batch_size: int, local_steps: int,
    ) -> None:  # fmt: skip
        """Begins where this rank was.

        Args:
            share: this worker's positions in the training split.
            seed: of the orders.
            rank: the worker's; each has orders of its own.
            completed: how many epochs of it are.
            begins_at: how many samples of the next one are done.
            epochs: the number of the last epoch.
            batch_size: samples of one step.
            local_steps: steps between two pushes.
        """
        self._share: Final = share
        self._seed: Final = seed
        self._rank: Final = rank
        self._epochs: Final = range(completed + 1, epochs + 1)
        self._begins_at = begins_at  # where the next piece does, in its epoch
        self._batch_size: Final = batch_size
        self._local_steps: Final = local_steps
        self._is_held = True

    def pieces(self) -> Iterator[Piece]:
        """Gives the rest of each epoch: the whole share, or what is left of it after a loss."""
        for epoch in self._epochs:
            order = epoch_order(self._share, self._seed, self._rank, epoch)
            is_complete = False
            while not is_complete:
                self._is_held = True
                rest = order[self._begins_at :]
                yield Piece(
                    epoch, rest, self._batch_size, self._local_steps, self._begins_at, len(order)
                )
                is_complete = self.is_held()
            self._begins_at = 0

    def is_held(self) -> bool:
        """Whether nothing of the newest piece was lost; nobody else ever gets this share."""
        return self._is_held

    def lose(self, taken: int) -> None:
        """Has the next piece begin with the samples that were lost."""
        self._is_held = False
        self._begins_at += taken
