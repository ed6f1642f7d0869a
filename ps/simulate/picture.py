"""Draws what a policy does to each worker: who computes, who waits, and how fast the run is.

Blue and orange suit all eyes (Okabe and Ito 2008).
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from leash.ps.report.pictures.style import BLUE, STYLE
from leash.ps.simulate.prediction import SHOWN_WORKERS, Prediction
from leash.ps.simulate.simulation import Step
from leash.ps.words import percent, seconds

PALE_ORANGE, PALE_BLUE, TEXT_GREY = "#f3c96b", "#bfdcec", "#666666"
WITHOUT_GRID: Final[Any] = {**STYLE, "axes.grid": False}
SHOWN_MEDIANS: Final = 14  # a timeline is about this many median steps long


def draw(predictions: Sequence[Prediction], workers: int, path: Path) -> None:
    """Draws a row for each policy: a timeline of its first workers, and its steps/s.

    Args:
        predictions: one for each policy.
        workers: how many workers the runs have; the timelines show `SHOWN_WORKERS` at most.
        path: of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(WITHOUT_GRID):
        figure = Figure(figsize=(9, 1.2 + 1.25 * len(predictions)), layout="constrained")
        figure.suptitle(title_of(predictions, workers), x=0.01, ha="left", fontsize=10.5,
                        fontweight="bold")  # fmt: skip
        axes = figure.subplots(
            len(predictions), 2, squeeze=False, sharex="col", width_ratios=[3.2, 1]
        )
        span_s = _span_s(predictions)
        for (timeline, speed), prediction in zip(axes, predictions, strict=True):
            _draw_timeline(timeline, prediction, span_s)
            _draw_speed(speed, prediction)
        axes[-1][0].set_xlabel("seconds")
        axes[-1][1].set_xlabel("steps/s")
        axes[-1][1].set_xlim(0, 1.35 * max(p.steps_per_second for p in predictions))
        figure.legend(handles=_keys(predictions), loc="outside lower left", ncols=3,
                      frameon=False)  # fmt: skip
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def title_of(predictions: Sequence[Prediction], workers: int) -> str:
    """Says which workers the timelines show, of how many, and in which part of the run."""
    shown = f"The first {SHOWN_WORKERS} of {workers} workers"
    if workers <= SHOWN_WORKERS:
        shown = f"All {workers} workers"
    return f"{shown} in their first {seconds(_span_s(predictions))}, and the speed of all"


def _keys(predictions: Sequence[Prediction]) -> list[Patch]:
    keys = [Patch(color=BLUE, label="computing, or delayed"),
            Patch(color=PALE_ORANGE, label="waiting for other workers")]  # fmt: skip
    if any(_waits_elsewhere(step) for p in predictions for step in p.first_steps):
        keys.append(Patch(color=PALE_BLUE, label="waiting for the server and the network"))
    return keys


def _waits_elsewhere(step: Step) -> bool:
    return step.taken_s > step.pushed_s or step.answered_s > step.released_s


def _span_s(predictions: Sequence[Prediction]) -> float:
    wanted_s = SHOWN_MEDIANS * median(p.outcome.step_percentile(50) for p in predictions)
    known_s = min(max(step.answered_s for step in p.first_steps) for p in predictions)
    return min(wanted_s, known_s)


def _draw_timeline(axes: Axes, prediction: Prediction, span_s: float) -> None:
    by_worker = groupby(sorted(prediction.first_steps, key=attrgetter("worker")),
                        key=attrgetter("worker"))  # fmt: skip
    for worker, steps in by_worker:
        _draw_worker(axes, worker, [step for step in steps if step.began_s < span_s])
    axes.set_xlim(0, span_s)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_ylabel(str(prediction.rule), rotation=0, ha="right", va="center", weight="bold",
                    labelpad=10)  # fmt: skip


def _draw_worker(axes: Axes, worker: int, steps: list[Step]) -> None:
    place = (worker - 0.4, 0.8)
    parts: tuple[tuple[Callable[[Step], tuple[float, float]], dict[str, Any]], ...] = (
        (lambda step: (step.began_s, step.pushed_s), {"color": BLUE, "edgecolor": "white",
                                                      "linewidth": 0.4}),
        (lambda step: (step.pushed_s, step.taken_s), {"color": PALE_BLUE, "linewidth": 0}),
        (lambda step: (step.taken_s, step.released_s), {"color": PALE_ORANGE, "linewidth": 0}),
        (lambda step: (step.released_s, step.answered_s), {"color": PALE_BLUE, "linewidth": 0}),
    )  # fmt: skip
    for part, look in parts:
        spans = [(begin, end - begin) for begin, end in map(part, steps)]
        axes.broken_barh(spans, place, **look)


def _draw_speed(axes: Axes, prediction: Prediction) -> None:
    """Draws steps/s as a bar, with what the server can do as a mark, and says what was waited."""
    speed, outcome = prediction.steps_per_second, prediction.outcome
    axes.barh([0], [speed], height=0.4, color=BLUE)
    axes.text(speed, 0, f"  {speed:.1f}", va="center")
    waiting = f"waiting {percent(outcome.wait_fraction)}"
    if outcome.server_fraction:
        waiting += f", for others {percent(outcome.held_fraction)}"
    axes.text(0, 0.5, waiting, fontsize=7.5, va="center", color=TEXT_GREY)
    axes.set_ylim(0.8, -0.8)
    axes.set_yticks([])
