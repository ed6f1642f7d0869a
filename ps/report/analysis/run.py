"""What a run's files tell, as typed data. All times are seconds since the training began."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leash.ps.words import DONE

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


def no_floats() -> Floats:
    return np.empty(0)


@dataclass(frozen=True)
class Steps:
    """The recorded steps of one worker, in the order of their replies; arrays of one length."""

    step: Floats = field(default_factory=no_floats)
    pushed_s: Floats = field(default_factory=no_floats)  # counted at the server
    replied_s: Floats = field(default_factory=no_floats)  # the reply went out
    began_s: Floats = field(default_factory=no_floats)  # the reply before it; NaN for none
    lag: Floats = field(default_factory=no_floats)
    staleness: Floats = field(default_factory=no_floats)
    dropped: int = 0  # answered, but not applied

    @property
    def own_s(self) -> Floats:
        """What the worker itself took for a step: from a reply to its next push."""
        own_s = self.pushed_s - self.began_s
        return own_s[np.isfinite(own_s)]

    @property
    def waiting(self) -> list[Interval]:
        """From a push to its reply the policy holds a worker back."""
        return list(zip(self.pushed_s.tolist(), self.replied_s.tolist(), strict=True))


@dataclass(frozen=True)
class Accounts:
    """What one worker told of itself, about once a second; the seconds are totals so far."""

    t: Floats = field(default_factory=no_floats)
    step: Floats = field(default_factory=no_floats)
    loss: Floats = field(default_factory=no_floats)  # NaN where there was none
    compute_s: Floats = field(default_factory=no_floats)
    wait_s: Floats = field(default_factory=no_floats)  # from a push until its answer is here


@dataclass(frozen=True)
class Track:
    """One worker's way through a run."""

    worker: int
    steps: Steps
    accounts: Accounts
    present: tuple[Interval, ...]  # from a hello to the end of that process
    reasons: tuple[str, ...]  # why each of those ended; "" if the run ended first

    @property
    def working(self) -> tuple[Interval, ...]:
        """The same, from the beginning of the first step: before it a worker gets ready.

        Where no step is known, all of the time that it was present.
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
        """When it had done its part; None if it never came to that."""
        ends = zip(self.present, self.reasons, strict=True)
        return next((stop for (_, stop), reason in ends if reason == DONE), None)


@dataclass(frozen=True)
class Evaluated:
    t: float
    epoch: int
    accuracy: float | None
    loss: float | None


@dataclass(frozen=True)
class Change:
    """The policy changed while the run went on."""

    t: float
    policy: str
    bound: int | None


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    name: str
    options: dict[str, Any]  # empty where the file is missing; so is the summary
    summary: dict[str, Any]
    policy: str | None
    bound: int | None
    started: bool
    seconds: float  # of training
    step_events: int  # every Nth step was recorded; 0: none
    tracks: tuple[Track, ...]  # by rank
    evaluations: tuple[Evaluated, ...]
    changes: tuple[Change, ...]
    is_cut: bool  # it ended before its time, or left no summary

    @property
    def scale(self) -> float:
        """Seconds of this run for each second at full scale."""
        scale = self.options.get("time_scale")
        return float(scale) if isinstance(scale, int | float) and scale > 0 else 1.0

    @property
    def steps(self) -> int:
        """Pushes of all workers."""
        if "steps" in self.summary:
            return int(self.summary["steps"])
        recorded = [track.steps.step for track in self.tracks if len(track.steps.step)]
        return round(sum(float(step[-1] - step[0]) + 1 for step in recorded))

    @property
    def rule(self) -> str:
        """The policy with its bound, as people say it."""
        if self.policy is None:
            return "unknown policy"
        return f"{self.policy}, bound {self.bound}" if self.bound else self.policy

    def pushed_s(self) -> Floats:
        """When the steps of all workers were recorded, in order."""
        times = [track.steps.pushed_s for track in self.tracks]
        return np.sort(np.concatenate(times)) if times else no_floats()

    def steps_at(self, t: Floats) -> Floats | None:
        """The pushes of all workers until these times; None if nothing tells."""
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
        """Each worker's own account of its waiting, exchanging included, from the summary."""
        shares = self.summary.get("wait_fraction_by_worker") or {}
        return {int(worker): float(share) for worker, share in shares.items()}
