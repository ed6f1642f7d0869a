"""Draws leash.bench.compensation: losses over the rate, and over updates at the edge."""

from collections.abc import Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from leash.bench.harness.rows import Row

# Okabe and Ito's colours, with a mark for each, in the order of the ways.
LOOKS: Final = (
    ("#222222", "o"), ("#0072b2", "s"), ("#56b4e9", "D"), ("#e69f00", "v"), ("#d55e00", "^"),
    ("#009e73", "P"),
)  # fmt: skip
HIGHEST: Final = 10.0  # a higher loss has diverged
EDGE_GREY: Final = "#888888"

Curves = npt.NDArray[np.float64]  # of shape (seeds, points)


def compensation(rows: Sequence[Row]) -> Any:
    """Draws the final loss over the rate for every way; then the curves at the edge."""
    at = edge(rows)
    systems = list(dict.fromkeys(row.system for row in rows))
    looks = dict(zip(systems, LOOKS, strict=False))
    figure, (sweep, course) = plt.subplots(1, 2, figsize=(9.6, 4.4), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.965))
    for system in systems:
        of_system = [row for row in rows if row.system == system]
        _over_rates(sweep, of_system, *looks[system])
        for row in of_system:
            if row.lr == at:
                _over_updates(course, row, *looks[system])
    _label_sweep(sweep, rows, at)
    _loss_axis(course)
    course.set(xlabel="updates", xlim=(0, None))
    course.set_title("plain asp bears none of these rates" if at is None
                     else f"lr {at:g}: the largest of these that plain asp bears")  # fmt: skip
    lines = sweep.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(systems), fontsize=8)
    return figure


def edge(rows: Sequence[Row]) -> float | None:
    """Finds the largest rate that plain asp bears; None if there is none."""
    return max((row.lr for row in rows if row.system == "asp" and row.lr and _bears(row)),
               default=None)  # fmt: skip


def _bears(row: Row) -> bool:
    curves = row.losses or []
    return all(
        curve[0] is not None and curve[-1] is not None and curve[-1] < curve[0] for curve in curves
    )


def curves_of(row: Row) -> Curves:
    """Makes a curve for each seed; infinite where the loss was no number."""
    return np.array([[np.inf if x is None else x for x in curve] for curve in row.losses or []])


def _over_rates(axis: Axes, rows: Sequence[Row], color: str, mark: str) -> None:
    finals = np.clip([curves_of(row)[:, -1] for row in rows], None, HIGHEST)
    rates = [row.lr for row in rows]
    axis.fill_between(rates, finals.min(1), finals.max(1), color=color, alpha=0.15, linewidth=0)
    axis.plot(rates, finals.mean(1), color=color, marker=mark, label=rows[0].system)


def _over_updates(axis: Axes, row: Row, color: str, mark: str) -> None:
    curves = np.clip(curves_of(row), None, HIGHEST)
    updates = np.linspace(0, row.repeats / len(curves), curves.shape[1])
    axis.fill_between(updates, curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)
    axis.plot(updates, curves.mean(0), color=color, marker=mark, markevery=4)


def _label_sweep(axis: Axes, rows: Sequence[Row], at: float | None) -> None:
    updates = round(rows[0].repeats / len(rows[0].losses or [()]))
    _loss_axis(axis)
    axis.set_title(f"after {updates} updates: mean and range of the seeds")
    axis.set(xscale="log", xlabel="learning rate")
    axis.set_xticks(sorted({row.lr for row in rows if row.lr}))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    if at is not None:
        axis.axvline(at, color=EDGE_GREY, linestyle=":", linewidth=1, zorder=0)


def _loss_axis(axis: Axes) -> None:
    axis.set(yscale="log", ylabel="training loss", ylim=(0.03, 1.15 * HIGHEST))
    ticks = (0.03, 0.1, 0.3, 1, 3, HIGHEST)
    axis.set_yticks(ticks, [*(f"{tick:g}" for tick in ticks[:-1]), f"{HIGHEST:g}+"])
    axis.yaxis.set_minor_formatter(NullFormatter())
