"""Counts how many steps had which lag and which staleness."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from leash.ps.report.analysis.run import Floats, Run

MAX_BARS: Final = 40  # a histogram has no more
LEAST_SEEN: Final = 0.004  # of the highest bar: one that is there is drawn at least so high


@dataclass(frozen=True)
class Histogram:
    """Shares of steps. Bar i stands for the whole numbers from starts[i] to starts[i + 1] - 1."""

    starts: Floats  # has one more item than `shares`
    shares: Floats
    mean: float


def histogram(values: Floats, largest: float) -> Histogram | None:
    """Counts whole numbers from 0 to `largest` in bars of one width, MAX_BARS at most."""
    if not len(values):
        return None
    width = max(1, int(np.ceil((largest + 1) / MAX_BARS)))
    starts = np.arange(0, largest + 1 + width, width, dtype=np.float64)
    counts, _ = np.histogram(values, starts)
    return Histogram(starts, counts / len(values), float(values.mean()))


def all_steps(run: Run, name: str) -> Floats:
    """A column of the recorded steps of all workers, such as their lag."""
    columns: list[Floats] = [getattr(track.steps, name) for track in run.tracks]
    return np.concatenate(columns) if columns else np.empty(0)
