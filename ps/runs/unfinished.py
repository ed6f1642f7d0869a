"""The training that a run was asked for and did not do: whose, which epochs, how many samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from leash.ps.words import named_workers

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


def unfinished_text(unfinished: Sequence[dict[str, Any]]) -> str:
    """Says in one line what a run has not trained, from what summary.json or `state` has.

    Workers of whom the same is missing share a clause.
    """
    alike: dict[Unfinished, list[int]] = {}
    for part in (Unfinished(**told) for told in unfinished):
        ranks = alike.setdefault(replace(part, worker=None), [])
        if part.worker is not None:
            ranks.append(part.worker)
    clauses = [_clause(part, sorted(ranks)) for part, ranks in alike.items()]
    more = len(clauses) - NAMED_PARTS
    return "; ".join(clauses[:NAMED_PARTS]) + (f"; and {more} more" if more > 0 else "")


def _clause(part: Unfinished, ranks: Sequence[int]) -> str:
    """One clause for people, of what is missing of these workers; of none it is nobody's."""
    several = len(ranks) > 1
    samples = "" if part.samples is None else f", {part.samples} samples{' each' * several}"
    if not ranks:
        return f"{_epochs(part.epochs)}{samples} that nobody was left to train on"
    who = f"{named_workers(ranks)} ({part.state})"
    if not part.epochs:
        return f"{who}: all that {'they' if several else 'it'} had still to do"
    return f"{who}: {_epochs(part.epochs)} of {'their shares' if several else 'its share'}{samples}"


def _epochs(epochs: str) -> str:
    return f"epoch {epochs}" if epochs.isdecimal() else f"epochs {epochs}"
