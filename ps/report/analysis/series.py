"""Works out the curves of a run: accuracy, loss and speed over time."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from leash.ps.report.analysis.run import Floats, Run

LOSS_BINS: Final = 80
SPEED_BINS: Final = 48

LOG_FROM: Final = 15.0  # from this ratio of largest to smallest, a loss has a logarithmic axis
# The same ratio for errors: then 98 and 99 % are as far apart as 80 and 90 %.
LOG_ERRORS_FROM: Final = 8.0
LEAST_ERROR: Final = 0.01  # percent; on such an axis 100 % is drawn here

Curve = tuple[Floats, Floats]  # x, y


def edges_of(longest_s: float, bins: int) -> Floats:
    """The edges of equal bins of time."""
    return np.linspace(0.0, max(longest_s, 1e-9), bins + 1)


def accuracy(run: Run) -> Curve:
    """The test accuracy in percent over seconds."""
    return _evaluated([(e.t, 100 * e.accuracy) for e in run.evaluations if e.accuracy is not None])


def test_loss(run: Run) -> Curve:
    """The test loss over seconds."""
    return _evaluated([(e.t, e.loss) for e in run.evaluations if e.loss is not None])


def _evaluated(points: Sequence[tuple[float, float]]) -> Curve:
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def training_loss(run: Run) -> Curve:
    """The mean loss that all workers reported, in bins of time."""
    t = np.concatenate([track.accounts.t for track in run.tracks] or [np.empty(0)])
    loss = np.concatenate([track.accounts.loss for track in run.tracks] or [np.empty(0)])
    known = np.isfinite(loss)
    return binned_mean(t[known], loss[known], edges_of(run.seconds, LOSS_BINS))


def logged(run: Run) -> dict[str, Curve]:
    """The mean of what all workers' own loops have logged, in bins of time: name ▸ curve."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for row in run.logged:
        for name, value in row.metrics.items():
            by_name.setdefault(name, []).append((row.t, value))
    edges = edges_of(run.seconds, LOSS_BINS)
    tables = {name: np.array(points, dtype=np.float64) for name, points in by_name.items()}
    return {name: binned_mean(table[:, 0], table[:, 1], edges) for name, table in tables.items()}


def binned_mean(t: Floats, values: Floats, edges: Floats) -> Curve:
    """The mean time and value in each bin that has values."""
    place = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    has = counts > 0
    mean_t = np.bincount(place, t, len(edges) - 1)[has] / counts[has]
    return mean_t, np.bincount(place, values, len(edges) - 1)[has] / counts[has]


def speed(run: Run) -> Curve:
    """The steps a second of all workers over seconds; empty if no step was recorded."""
    pushed_s = run.pushed_s()
    if not len(pushed_s) or run.seconds <= 0:
        return np.empty(0), np.empty(0)
    bins = int(np.clip(len(pushed_s) // 20, 1, SPEED_BINS))
    edges = edges_of(run.seconds, bins)
    counts, _ = np.histogram(pushed_s, edges)
    return (edges[:-1] + edges[1:]) / 2, counts * run.step_events / np.diff(edges)


# Axes.


def differ_much(values: Floats) -> bool:
    """Whether these losses need a logarithmic axis."""
    return bool(len(values) and values.min() > 0 and values.max() > LOG_FROM * values.min())


def errors_differ_much(accuracies: Floats) -> bool:
    """Whether these accuracies, in percent, need an axis that is logarithmic in the errors."""
    errors = np.maximum(100.0 - accuracies, LEAST_ERROR)
    return bool(len(errors) and errors.max() >= LOG_ERRORS_FROM * errors.min())
