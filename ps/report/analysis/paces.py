"""Measures how long each worker itself takes for a step: from a reply to its next push."""

from dataclasses import dataclass
from statistics import median_low
from typing import Final

import numpy as np

from leash.ps.report.analysis.run import Floats, Run, Track
from leash.ps.report.analysis.spending import reported_compute_s

FEW: Final = 5  # the median of fewer steps says nothing
SLOWER: Final = 1.25  # a worker is slow whose median step takes this many typical ones
SURE: Final = 3.0  # a difference of this many standard errors is no chance
LONG: Final = 3.0  # a step is a stumble that takes this many medians


@dataclass(frozen=True)
class Median:
    """A worker's median step time in a stretch of the run, beside the typical one."""

    seconds: float
    error_s: float  # standard error
    typical_s: float  # the median of all workers' medians

    @property
    def ratio(self) -> float:
        return self.seconds / self.typical_s if self.typical_s > 0 else 1.0

    @property
    def differs(self) -> bool:
        """Whether it differs from the typical one by more than chance."""
        return abs(self.seconds - self.typical_s) > SURE * self.error_s

    @property
    def settled_s(self) -> float:
        """The median, or the typical one if they differ by chance alone."""
        return self.seconds if self.differs else self.typical_s

    @property
    def is_slow(self) -> bool:
        return self.ratio >= SLOWER and self.differs


@dataclass(frozen=True)
class StepPace:
    """One worker's step times, without what it waited."""

    worker: int
    own_s: Floats  # its step times, in order
    whole: Median
    halves: tuple[Median, ...]  # in both halves of the run; () if a worker has too few steps

    @property
    def median_s(self) -> float:
        return self.whole.seconds

    @property
    def is_slow(self) -> bool:
        return any(median.is_slow for median in (self.whole, *self.halves))

    @property
    def slow_half(self) -> int | None:
        """The half, 0 or 1, in which alone or by far most the worker was slow; None if neither."""
        if len(self.halves) != 2:
            return None
        excess = [median.ratio - 1 for median in self.halves]
        slower = int(excess[1] > excess[0])
        alone = 3 * max(excess[1 - slower], 0.0) < excess[slower]
        return slower if alone and self.halves[slower].is_slow else None

    @property
    def ratio(self) -> float:
        """How many times slower than the typical worker it is while it is slow."""
        return self.whole.ratio if self.slow_half is None else self.halves[self.slow_half].ratio

    @property
    def stumbling_share(self) -> float:
        """The share of its own time in steps longer than three of its medians."""
        total = float(self.own_s.sum())
        return float(self.own_s[self.own_s > LONG * self.median_s].sum()) / total if total else 0.0

    @property
    def spread(self) -> float:
        """The 95th percentile of its step times over their median."""
        return float(np.percentile(self.own_s, 95)) / self.median_s if self.median_s > 0 else 1.0


def paces(run: Run) -> dict[int, StepPace]:
    """Measures the pace of each worker whose step times are known: worker ▸ pace."""
    times = {track.worker: step_times(run, track) for track in run.tracks}
    middle_s = run.seconds / 2
    whole = _medians({w: own for w, (_, own) in times.items()}, fewest=1)
    first = _medians({w: own[t < middle_s] for w, (t, own) in times.items()}, fewest=FEW)
    second = _medians({w: own[t >= middle_s] for w, (t, own) in times.items()}, fewest=FEW)
    halves = (first, second) if whole.keys() == first.keys() == second.keys() else ()
    return {w: StepPace(w, times[w][1], whole[w], tuple(half[w] for half in halves)) for w in whole}


def typical(medians: dict[int, float]) -> float:
    """The median of the workers' medians; of an even number of them the faster one's."""
    return median_low(medians.values()) if medians else 0.0


def step_times(run: Run, track: Track) -> tuple[Floats, Floats]:
    """When a worker pushed its steps, and how long each took the worker itself.

    If not every step was recorded, these are means between two of the worker's accounts.
    """
    if run.step_events == 1:
        took_s = track.steps.pushed_s - track.steps.began_s
        known = np.isfinite(took_s)
        return track.steps.pushed_s[known], took_s[known]
    accounts = track.accounts
    steps = np.diff(accounts.step)
    known = steps > 0
    means = np.diff(reported_compute_s(accounts))[known] / steps[known]
    return accounts.t[1:][known], np.maximum(means, 0.0)


def _medians(times: dict[int, Floats], fewest: int) -> dict[int, Median]:
    """The medians of the workers with at least `fewest` steps."""
    medians = {w: float(np.median(own)) for w, own in times.items() if len(own) >= fewest}
    typical_s = typical(medians)
    return {w: Median(median, _error(times[w]), typical_s) for w, median in medians.items()}


def _error(own_s: Floats) -> float:
    """The standard error of a median, from the quartiles: exact for a normal distribution."""
    low, high = np.percentile(own_s, [25, 75])
    return float(0.93 * (high - low) / np.sqrt(len(own_s)))
