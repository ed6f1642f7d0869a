"""Draws what a policy does to each worker: who computes, who waits, and how fast the run is.

Blue and orange suit all eyes (Okabe and Ito 2008).
"""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leash.ps.report.pictures.style import BLUE, STYLE
from leash.ps.simulate.prediction import Prediction
from leash.ps.simulate.simulation import Step
from leash.ps.words import percent

PALE_ORANGE, TEXT_GREY = "#f3c96b", "#666666"
WITHOUT_GRID: Final[Any] = {**STYLE, "axes.grid": False}
SHOWN_MEDIANS: Final = 14  # a timeline is about this many median steps long


def draw(predictions: Sequence[Prediction], path: Path) -> None:
    """Draws a row for each policy: a timeline of its first workers, and its steps/s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(WITHOUT_GRID):
        figure = Figure(figsize=(9, 0.9 + 1.25 * len(predictions)), layout="constrained")
        axes = figure.subplots(
            len(predictions), 2, squeeze=False, sharex="col", width_ratios=[3.2, 1]
        )
        span_s = _span_s(predictions)
        for (timeline, speed), prediction in zip(axes, predictions, strict=True):
            _draw_timeline(timeline, prediction, span_s)
            _draw_speed(speed, prediction)
        axes[-1][0].set_xlabel("seconds")
        axes[-1][1].set_xlabel("steps/s")
        axes[-1][1].set_xlim(0, 1.3 * max(p.steps_per_second for p in predictions))
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=2,
                      frameon=False)  # fmt: skip
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


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
    axes.set_ylabel(str(prediction.rule), rotation=0, ha="right", va="center", weight="bold")


def _draw_worker(axes: Axes, worker: int, steps: list[Step]) -> None:
    place = (worker - 0.4, 0.8)
    labels = ("computing, or delayed", "waiting") if worker == 1 else ("", "")
    computing = [(step.began_s, step.pushed_s - step.began_s) for step in steps]
    waiting = [(step.pushed_s, step.answered_s - step.pushed_s) for step in steps]
    axes.broken_barh(computing, place, color=BLUE, edgecolor="white", linewidth=0.4,
                     label=labels[0])  # fmt: skip
    axes.broken_barh(waiting, place, color=PALE_ORANGE, linewidth=0, label=labels[1])


def _draw_speed(axes: Axes, prediction: Prediction) -> None:
    speed = prediction.steps_per_second
    axes.barh([0], [speed], height=0.5, color=BLUE)
    axes.text(speed, 0, f" {speed:.1f}", va="center")
    waiting = percent(prediction.outcome.wait_fraction)
    axes.text(0, 0.42, f"{waiting} of the time waiting", fontsize=7.5, va="center", color=TEXT_GREY)
    axes.set_ylim(0.7, -0.7)
    axes.set_yticks([])
