"""The training that a run was asked for and did not do: whose, which epochs, how many samples."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

NAMED_PARTS: Final = 5  # a text names so many; it counts the others


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A part of a run's training that is missing."""

    worker: int | None  # whose share it is of; None for samples that any worker might have leased
    state: str  # how that worker left; for leased samples "timeout" if time alone was short
    epochs: str  # those that are not complete, such as "2-5"; "" if only the worker knows them
    samples: int | None  # of these epochs, those that no answered push had; None if unknown

    def as_dict(self) -> dict[str, Any]:
        """The form in which summary.json and `state` have it."""
        return asdict(self)

    @property
    def text(self) -> str:
        """One clause for people."""
        samples = "" if self.samples is None else f", {self.samples} samples"
        if self.worker is None:
            return f"{_epochs(self.epochs)}{samples} that nobody was left to train on"
        who = f"worker {self.worker} ({self.state})"
        if not self.epochs:
            return f"{who}: all that it had still to do"
        return f"{who}: {_epochs(self.epochs)} of its share{samples}"


def ranges(numbers: Iterable[int]) -> str:
    """Writes ascending whole numbers in short: [1, 3, 4, 5] ▸ ``1, 3-5``."""
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(pairs) for _, pairs in runs)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def unfinished_text(unfinished: Sequence[dict[str, Any]]) -> str:
    """Says in one line what a run has not trained, from what summary.json or `state` has."""
    clauses = [Unfinished(**part).text for part in unfinished]
    more = len(clauses) - NAMED_PARTS
    return "; ".join(clauses[:NAMED_PARTS]) + (f"; and {more} more" if more > 0 else "")


def _epochs(epochs: str) -> str:
    return f"epoch {epochs}" if epochs.isdecimal() else f"epochs {epochs}"
