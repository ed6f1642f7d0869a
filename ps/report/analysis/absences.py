"""Finds when a run was without workers that it had lost, and says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from leash.ps.report.analysis.run import Run
from leash.ps.words import EVICTED, FAILED, TIMED_OUT, listed, seconds

MOST_TOLD: Final = 5  # more are counted
LOST: Final = {EVICTED: "evicted", FAILED: "failed", TIMED_OUT: "its time was over"}


@dataclass(frozen=True)
class Absence:
    """A time in which a worker was gone that nobody had told to go."""

    worker: int
    from_s: float  # seconds since training began, as the next is
    until_s: float | None  # when its rank was taken again; None if it never was
    reason: str


def absences(run: Run) -> list[Absence]:
    """The absences of lost workers: first those for good, each kind in the order of their times.

    A worker whose time was over is none where the whole run's was.
    """
    planned = {TIMED_OUT} if run.summary.get("ended") == TIMED_OUT else set()
    found = [
        Absence(track.worker, stop, back[0] if back is not None else None, reason)
        for track in run.tracks
        for (_, stop), reason, back in zip(
            track.present, track.reasons, (*track.present[1:], None), strict=False
        )
        if reason in LOST and reason not in planned
    ]
    return sorted(found, key=lambda absence: (absence.until_s is not None, absence.from_s))


def who_was_gone(found: Sequence[Absence]) -> str:
    """Says which workers were gone, and when: ``worker 2 was gone from 12 s on (evicted)``."""
    told = [_told(absence, "was gone " if absence is found[0] else "")
            for absence in found[:MOST_TOLD]]  # fmt: skip
    rest = len(found) - len(told)
    return listed([*told, f"{rest} more"] if rest else told)


def _told(absence: Absence, verb: str) -> str:
    begin, reason = seconds(absence.from_s), LOST[absence.reason]
    if absence.until_s is None:
        return f"worker {absence.worker} {verb}from {begin} on ({reason})"
    return (
        f"worker {absence.worker} {verb}from {begin} to {seconds(absence.until_s)} ({reason}; it "
        "came back)"
    )
