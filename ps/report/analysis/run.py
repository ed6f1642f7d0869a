"""The contents of a run's files as typed data. All times are seconds since training began."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leash.ps.words import DONE, RESTING

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


def no_floats() -> Floats:
    return np.empty(0)


@dataclass(frozen=True)
class Steps:
    """The recorded steps of one worker, in the order of their replies, as arrays of one length."""

    step: Floats = field(default_factory=no_floats)
    pushed_s: Floats = field(default_factory=no_floats)  # when the server counted it
    replied_s: Floats = field(default_factory=no_floats)  # when the reply went out
    began_s: Floats = field(
        default_factory=no_floats
    )  # when the reply before it went out; NaN if there is none
    lag: Floats = field(default_factory=no_floats)
    staleness: Floats = field(default_factory=no_floats)
    dropped: int = 0  # how many were answered, but not applied

    @cached_property
    def own_s(self) -> Floats:
        """How long the worker itself took for each step: from a reply to its next push."""
        own_s = self.pushed_s - self.began_s
        return own_s[np.isfinite(own_s)]

    @cached_property
    def waiting(self) -> Floats:
        """When the policy held the worker back: from each push to its reply. Shape (steps, 2)."""
        return np.column_stack([self.pushed_s, self.replied_s])


@dataclass(frozen=True)
class Accounts:
    """The reports of one worker, about one a second; their seconds are totals so far."""

    t: Floats = field(default_factory=no_floats)
    step: Floats = field(default_factory=no_floats)
    loss: Floats = field(default_factory=no_floats)  # NaN where a report has none
    compute_s: Floats = field(default_factory=no_floats)
    wait_s: Floats = field(default_factory=no_floats)  # from a push until its answer is here


@dataclass(frozen=True)
class Track:
    """All that is known of one worker in a run."""

    worker: int
    steps: Steps
    accounts: Accounts
    present: tuple[Interval, ...]  # each from a hello to the end of that process
    reasons: tuple[str, ...]  # why each of these ended; "" if the run ended first

    @cached_property
    def working(self) -> tuple[Interval, ...]:
        """When it was present, from the beginning of the first step: before that it gets ready.

        If no step is known, this is all of the time that it was present.
        """
        own_s = self.steps.own_s
        step_s = float(np.median(own_s)) if len(own_s) else 0.0
        first = np.searchsorted(self.steps.pushed_s, [start for start, _ in self.present])
        return tuple(
            (max(start, float(self.steps.pushed_s[i]) - step_s), stop)
            if i < len(self.steps.pushed_s) and self.steps.pushed_s[i] <= stop
            else (start, stop)
            for i, (start, stop) in zip(first.tolist(), self.present, strict=True)
        )

    @property
    def done_s(self) -> float | None:
        """When it had done its part; None if it never had."""
        ends = zip(self.present, self.reasons, strict=True)
        return next((stop for (_, stop), reason in ends if reason in (DONE, RESTING)), None)


@dataclass(frozen=True)
class Evaluated:
    """One measurement of the evaluator."""

    t: float
    epoch: int
    accuracy: float | None
    loss: float | None


@dataclass(frozen=True)
class Change:
    """A change of the policy while the run went on."""

    t: float
    policy: str
    bound: int | None


@dataclass(frozen=True)
class LoggedRow:
    """What a worker's own loop has logged at one step."""

    t: float
    worker: int
    step: int
    metrics: dict[str, float]  # by name; a NaN or an infinity is one


@dataclass(frozen=True)
class Run:
    """The contents of one run directory."""

    path: Path
    name: str
    options: dict[str, Any]  # empty if config.yaml is missing; likewise the summary
    summary: dict[str, Any]
    policy: str | None
    bound: int | None
    started: bool
    seconds: float  # how long the training was
    step_events: int  # N if every Nth step was recorded, or is read; 0 if none was
    tracks: tuple[Track, ...]  # by rank
    evaluations: tuple[Evaluated, ...]
    changes: tuple[Change, ...]
    is_cut: bool  # whether it ended too early, or left no summary
    logged: tuple[LoggedRow, ...] = ()
    is_thinned: bool = False  # whether more steps were recorded than are read

    @property
    def ended_early(self) -> bool:
        """Whether its end came too early. A run without a summary may still go on."""
        return self.is_cut and bool(self.summary)

    @property
    def has_own_loop(self) -> bool:
        """Whether its workers are loops of the user's own: Leash knows neither model nor data."""
        if self.options.get("script") is not None:
            return True
        told = {**self.options, **self.summary}
        return "dataset" in self.options and not (told.get("dataset") or told.get("model"))

    @property
    def crew(self) -> str:
        """How many workers it was for, such as ``4``, or ``2 to 8`` where they come and go."""
        begun_with = self.options.get("workers", len(self.tracks))
        limit = self.options.get("max_workers")
        most = self.summary.get("workers", limit or begun_with)
        least = self.summary.get("least_workers", begun_with if limit else most)
        return f"{least} to {most}" if least != most else str(most)

    def workers_at(self, t: Floats) -> Floats:
        """How many workers took part at these times."""
        present = [interval for track in self.tracks for interval in track.present]
        came, went = (np.sort([interval[end] for interval in present]) for end in (0, 1))
        counts = np.searchsorted(came, t, side="right") - np.searchsorted(went, t, side="right")
        return counts.astype(np.float64)

    @property
    def scale(self) -> float:
        """How many seconds of this run stand for a second at full scale."""
        scale = self.options.get("time_scale")
        return float(scale) if isinstance(scale, int | float) and scale > 0 else 1.0

    @property
    def steps(self) -> int:
        """How many pushes all workers made."""
        if "steps" in self.summary:
            return int(self.summary["steps"])
        recorded = [track.steps.step for track in self.tracks if len(track.steps.step)]
        return round(sum(float(step[-1] - step[0]) + 1 for step in recorded))

    @property
    def rule(self) -> str:
        """The policy with its bound, as people write it."""
        if self.policy is None:
            return "unknown policy"
        return f"{self.policy}, bound {self.bound}" if self.bound else self.policy

    def pushed_s(self) -> Floats:
        """The times of the recorded steps of all workers, in order."""
        times = [track.steps.pushed_s for track in self.tracks]
        return np.sort(np.concatenate(times)) if times else no_floats()

    def steps_at(self, t: Floats) -> Floats | None:
        """How many pushes all workers had made by these times; None if that is unknown."""
        if self.step_events:
            counts = np.searchsorted(self.pushed_s(), t, side="right")
            return counts.astype(np.float64) * self.step_events
        told = [track.accounts for track in self.tracks if len(track.accounts.t)]
        if not told:
            return None
        steps: Floats = np.sum(
            [np.interp(t, [0.0, *a.t], [0.0, *a.step]) for a in told], axis=0, dtype=np.float64
        )
        return steps

    def wait_fractions(self) -> dict[int, float]:
        """Each worker's waiting, as the server has worked it out: from the summary."""
        shares = self.summary.get("wait_fraction_by_worker") or {}
        return {int(worker): float(share) for worker, share in shares.items() if share is not None}
