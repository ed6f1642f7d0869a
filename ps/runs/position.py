"""How far a run's training is: what a checkpoint tells of it, so that another run goes on there.

::

    epoch     ▪▪▪▪▪▪▪▪▪▪ 1   ▪▪▪▪▪▪▪▪▪▪ 2   ▪▪▪▪▪▪▫▫▪▫ 3     ▪ answered   ▫ free
              └────── completed: 2 ─────┘   └ open: 3 ┘

A position counts samples whose push was answered. What a worker had pushed beyond that is trained
on again, by the parameters that the checkpoint holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leash.ps.errors import UsageError
from leash.ps.wire.messages import EPOCH_MAX, U32_MAX


@dataclass(frozen=True, slots=True)
class SharePosition:
    """How far a worker is in a share of its own.

    Attributes:
        epochs: how many it has completed.
        samples: of the next one, those that were answered.
        share: how many an epoch has; 0 if the worker has not told yet.
    """

    epochs: int = 0
    samples: int = 0
    share: int = 0


@dataclass(frozen=True, slots=True)
class LeasePosition:
    """How far a run is whose samples are leased.

    Attributes:
        samples: how many an epoch has; 0 if that is not known.
        completed: how many epochs are.
        free: of each epoch that has begun and is not completed, the ranges of positions that are
            not done, ascending; epoch ▸ (first, stop) pairs.
    """

    samples: int
    completed: int
    free: dict[int, list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Trained:
    """How much a run has been trained, by all of its servers together.

    Attributes:
        seconds: of training; the time without a server does not count.
        steps: of all workers together.
        samples: behind those steps.
    """

    seconds: float = 0.0
    steps: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is.

    Attributes:
        seed: by which its samples are shuffled.
        epoch: how many epochs all workers have completed.
        shares: rank ▸ how far it is in its share; empty if the run has none.
        leases: how far its leases are; None if it has none.
        anew: what begins anew where the run goes on, in words; empty if nothing does.
        generation: how many servers the run had had by then; 0 if it keeps no journal.
    """

    seed: int
    epoch: int = 0
    shares: dict[int, SharePosition] = field(default_factory=dict)
    leases: LeasePosition | None = None
    anew: list[str] = field(default_factory=list)
    generation: int = 0

    def for_ranks(self, ranks: Sequence[int], *, has_leases: bool) -> "Position":
        """The position for a run of these workers.

        Shares of other workers, or leases where there were shares, divide the samples otherwise. So
        such a run begins with the first epoch that is not complete.

        Args:
            ranks: those of the run.
            has_leases: whether its samples are leased.
        """
        if has_leases:
            return replace(self, shares={}, leases=self.leases or LeasePosition(0, self.epoch, {}))
        if self.shares.keys() == set(ranks):
            return replace(self, leases=None)
        shares = {rank: SharePosition(self.epoch) for rank in ranks}
        return replace(self, shares=shares, leases=None)

    def require_seed(self, seed: int) -> None:
        """Raises UsageError if samples are to be shuffled by another seed, in mid-epoch."""
        if seed != self.seed and (self.shares or self.leases):
            raise UsageError(
                f"--seed {seed}: the run of this checkpoint shuffled its samples by seed "
                f"{self.seed}, and is in the midst of them; give --seed {self.seed}"
            )

    def require_epochs(self, planned: int | None) -> None:
        """Raises UsageError if nothing is left to train of so many epochs."""
        if planned is not None and self.epoch >= planned and (self.shares or self.leases):
            raise UsageError(
                f"--epochs {planned}: the run of this checkpoint has completed {self.epoch}; give "
                "the number of all epochs, those included, such as "
                f"--epochs {self.epoch + planned}"
            )

    def as_json(self) -> str:
        """The form in which a checkpoint has it."""
        leases = self.leases and {
            "samples": self.leases.samples, "completed": self.leases.completed,
            "free": self.leases.free,
        }  # fmt: skip
        shares = {w: [s.epochs, s.samples, s.share] for w, s in sorted(self.shares.items())}
        return json.dumps({
            "seed": self.seed, "epoch": self.epoch, "shares": shares, "leases": leases,
            "anew": self.anew, "generation": self.generation,
        })  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> "Position":
        """Reads it again.

        Raises:
            ValueError: it is no position.
        """
        told = json.loads(text)
        try:
            shares = {
                _count(int(rank)): SharePosition(*(_count(number) for number in numbers))
                for rank, numbers in told["shares"].items()
            }
            leases = told["leases"] and _leases(told["leases"])
            anew = [str(what) for what in told["anew"]]
            epoch, generation = _count(told["epoch"], EPOCH_MAX), _count(told.get("generation", 0))
            return cls(int(told["seed"]), epoch, shares, leases, anew, generation)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"position: not one of this format: {error!r}") from error


def _leases(told: Mapping[str, Any]) -> LeasePosition:
    samples, completed = _count(told["samples"]), _count(told["completed"], EPOCH_MAX)
    free = {
        _count(int(epoch), EPOCH_MAX): _ranges(pairs, samples)
        for epoch, pairs in told["free"].items()
    }
    if any(epoch <= completed for epoch in free):
        raise ValueError("position: an epoch is completed, and has samples left")
    return LeasePosition(samples, completed, free)


def _ranges(pairs: list[list[int]], samples: int) -> list[tuple[int, int]]:
    """Checks that these ranges ascend, touch no other and are of an epoch of so many samples."""
    found, end = [], -1
    for first, stop in pairs:
        if not end < _count(first) < _count(stop) <= samples:
            raise ValueError(f"position: no range of free positions: {first} to {stop}")
        found.append((first, stop))
        end = stop
    return found


def _count(number: Any, most: int = U32_MAX) -> int:
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError(f"position: expected a count, got {number!r}")
    return number
