"""How long each worker takes for a step of its own: the time from a reply to its next push."""

from dataclasses import dataclass
from statistics import median_low
from typing import Final

import numpy as np

from ps.report.run import Floats, Run, Track
from ps.report.spending import told_compute_s

FEW: Final = 5  # steps that say nothing of a median yet
LONG: Final = 3.0  # a step longer than so many medians is a stumble


@dataclass(frozen=True)
class Pace:
    """One worker's step times, without what it waited."""

    worker: int
    own_s: Floats  # its step times, in order
    median_s: float
    p95_s: float
    ratio: float  # its median over the typical one
    ratio_by_half: tuple[float, ...]  # the same for both halves of the run, where there is enough

    @property
    def stumbling_share(self) -> float:
        """Of its own time, in steps longer than three of its medians."""
        total = float(self.own_s.sum())
        return float(self.own_s[self.own_s > LONG * self.median_s].sum()) / total if total else 0.0

    @property
    def spread(self) -> float:
        return self.p95_s / self.median_s if self.median_s > 0 else 1.0


def paces(run: Run) -> dict[int, Pace]:
    """Worker ▸ its pace, of those whose step times are known."""
    times = {track.worker: step_times(run, track) for track in run.tracks}
    known = {worker: (t, own) for worker, (t, own) in times.items() if len(own)}
    halves = [_medians(known, lo, hi) for lo, hi in _halves(run.seconds)]
    whole = _medians(known, -np.inf, np.inf)
    typical_s = typical(whole)
    return {
        worker: Pace(
            worker, own, whole[worker], float(np.percentile(own, 95)),
            whole[worker] / typical_s if typical_s > 0 else 1.0,
            tuple(half[worker] / typical(half) for half in halves if worker in half),
        )
        for worker, (_, own) in known.items()
    }  # fmt: skip


def typical(medians: dict[int, float]) -> float:
    """The median of the workers' medians; of an even number of them the faster one's."""
    return median_low(medians.values()) if medians else 0.0


def step_times(run: Run, track: Track) -> tuple[Floats, Floats]:
    """When steps were pushed, and what each took the worker itself.

    Where not every step was recorded, the means between a worker's accounts stand for them.
    """
    if run.step_events == 1:
        took_s = track.steps.pushed_s - track.steps.began_s
        known = np.isfinite(took_s)
        return track.steps.pushed_s[known], took_s[known]
    accounts = track.accounts
    steps = np.diff(accounts.step)
    known = steps > 0
    means = np.diff(told_compute_s(accounts))[known] / steps[known]
    return accounts.t[1:][known], np.maximum(means, 0.0)


def _halves(seconds: float) -> tuple[tuple[float, float], ...]:
    return (-np.inf, seconds / 2), (seconds / 2, np.inf)


def _medians(
    times: dict[int, tuple[Floats, Floats]], start_s: float, stop_s: float
) -> dict[int, float]:
    chosen = {w: own[(t >= start_s) & (t < stop_s)] for w, (t, own) in times.items()}
    is_part = np.isfinite(start_s) or np.isfinite(stop_s)
    return {
        worker: float(np.median(own))
        for worker, own in chosen.items()
        if len(own) >= (FEW if is_part else 1) and np.median(own) > 0
    }
