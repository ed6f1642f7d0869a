"""Draws shares of time, step times and histograms, which compare workers and runs."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from leash.ps.report.analysis.histograms import LEAST_SEEN, Histogram, all_steps, histogram
from leash.ps.report.analysis.lanes import chosen_tracks
from leash.ps.report.analysis.paces import StepPace, paces
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.spending import (
    divided,
    divided_together,
    knows_waiting,
    spent,
    waiting_by_worker,
)
from leash.ps.report.pictures.drawing import Key, Picture, new_figure
from leash.ps.report.pictures.lineup import Shown
from leash.ps.report.pictures.style import BLUE, INK, MUTED, RED, STATE_COLORS
from leash.ps.report.pictures.timeline import state_keys
from leash.ps.words import LAG_IS, WAITING_IS, decimal, percent, seconds

SHARED: Final = ("computing", "exchanging", "held back")


# Shares of time.


def share_picture(shown: Sequence[Shown]) -> Picture | None:
    """Draws how time was spent, by each worker or in each of several runs; names the waiting."""
    rows = _run_shares(shown) if len(shown) > 1 else _worker_shares(shown[0].run)
    if not rows:
        return None
    known = [s.run for s in shown if knows_waiting(s.run)]
    whose = "worker" if len(shown) == 1 else ""

    def make(width_in: float) -> Figure:
        figure, axis = _horizontal(width_in, [label for label, _ in rows], whose)
        for place, (_, shares) in enumerate(rows):
            left = 0.0
            for state, share in zip(SHARED, shares, strict=True):
                axis.barh(place, share, left=left, height=0.72, color=STATE_COLORS[state])
                left += share
            axis.annotate(percent(1 - shares[0]), (1, place), (4, 0), va="center", color=INK,
                          textcoords="offset points", annotation_clip=False)  # fmt: skip
        axis.set(xlim=(0, 1), xlabel=f"share of the time; the figure is waiting: {WAITING_IS}")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
        return figure

    keys = state_keys(known[0]) if known else (Key("waiting", STATE_COLORS["held back"]),)
    return Picture("time-shares", "Where the time went", make, keys)


def _worker_shares(run: Run) -> list[tuple[str, tuple[float, ...]]]:
    by_worker, done = waiting_by_worker(run), spent(run)
    return [
        (str(track.worker), divided(run, by_worker[track.worker], [done[track.worker]]))
        for track in chosen_tracks(run)
        if track.worker in by_worker
    ]


def _run_shares(shown: Sequence[Shown]) -> list[tuple[str, tuple[float, ...]]]:
    return [(s.run.name, shares) for s in shown if (shares := divided_together(s.run)) is not None]


# Step times.


def pace_picture(run: Run) -> Picture | None:
    """Draws each worker's step times without waiting.

    Persistent slowness moves the dot, transient slowness makes the line long.
    """
    by_worker = paces(run)
    chosen = [by_worker[t.worker] for t in chosen_tracks(run) if t.worker in by_worker]
    if not chosen:
        return None

    def make(width_in: float) -> Figure:
        figure, axis = _horizontal(width_in, [str(pace.worker) for pace in chosen], "worker")
        for place, pace in enumerate(chosen):
            _draw_pace(axis, place, pace)
        axis.set(xscale="log", xlabel="a step's own time, without waiting")
        _time_ticks(axis, chosen)
        return figure

    return Picture("step-times", "How long a step takes each worker", make)


def _draw_pace(axis: Axes, place: int, pace: StepPace) -> None:
    color = RED if pace.is_slow else BLUE
    low, high = np.percentile(pace.own_s, [5, 95])
    axis.plot([max(low, 1e-7), max(high, 1e-7)], [place, place], color=color, linewidth=3,
              alpha=0.35, solid_capstyle="round")  # fmt: skip
    axis.plot([pace.median_s], [place], "o", color=color, markersize=6)
    if pace.is_slow:
        axis.annotate(f"{pace.ratio:.1f} ×", (pace.median_s, place), (0, 6), ha="center",
                      textcoords="offset points", color=color, fontsize=8)  # fmt: skip


def _time_ticks(axis: Axes, chosen: Sequence[StepPace]) -> None:
    ends = np.concatenate([np.percentile(pace.own_s, [5, 95]) for pace in chosen])
    ends = np.maximum(ends, 1e-7)
    axis.set_xlim(ends.min() / 1.5, ends.max() * 1.5)
    decades = np.log10(ends.max() / ends.min())
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.6 else (1,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: seconds(x)))
    axis.xaxis.set_minor_locator(NullLocator())


def _horizontal(width_in: float, labels: Sequence[str], whose: str) -> tuple[Figure, Axes]:
    bar_in = float(np.interp(len(labels), [1, 8, 64], [0.4, 0.27, 0.12]))
    figure, (axis,) = new_figure(width_in, max(1.6, 0.8 + bar_in * len(labels)))
    every = 1 if len(labels) <= 24 else 4
    axis.set_yticks(range(len(labels)), [w if i % every == 0 else "" for i, w in enumerate(labels)])
    axis.set(ylim=(len(labels) - 0.4, -0.6), ylabel=whose)
    axis.grid(axis="y", visible=False)
    return figure, axis


# Histograms.


def staleness_picture(shown: Sequence[Shown]) -> Picture | None:
    """Draws how stale the runs' updates were."""
    return _histograms(
        shown, "staleness", "Staleness", "updates between a pull and the push after it",
        lambda _: None,
    )  # fmt: skip


def lag_picture(shown: Sequence[Shown]) -> Picture | None:
    """Draws how far workers were ahead."""
    return _histograms(
        shown, "lag", "Lag", LAG_IS,
        lambda run: run.bound if not run.changes else None,
    )  # fmt: skip


def _histograms(
    shown: Sequence[Shown],
    name: str,
    title: str,
    label: str,
    bound_of: Callable[[Run], int | None],
) -> Picture | None:
    values = [all_steps(s.run, name) for s in shown]
    largest = max((float(v.max()) for v in values if len(v)), default=-1.0)
    rows = [(s, h) for s, v in zip(shown, values, strict=True) if (h := histogram(v, largest))]
    if not rows:
        return None

    def make(width_in: float) -> Figure:
        height_in = 2.5 if len(rows) == 1 else 0.7 + 0.62 * len(rows)
        figure, axes = new_figure(width_in, height_in, len(rows), sharex=True)
        for axis, (s, h) in zip(axes, rows, strict=True):
            _draw_histogram(axis, s, h, alone=len(rows) == 1)
            if (bound := bound_of(s.run)) is not None:
                _mark(axis, bound, f"bound {bound}", (0, (3, 2)), 0.86)
        axes[-1].set_xlabel(label)
        axes[-1].set_xlim(-0.6, max(largest, *(bound_of(s.run) or 0 for s, _ in rows)) + 1)
        axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return figure

    keys = tuple(dict.fromkeys(Key(s.label, s.color) for s, _ in rows)) if len(rows) > 1 else ()
    return Picture(name, title, make, keys)


def _draw_histogram(axis: Axes, s: Shown, h: Histogram, *, alone: bool) -> None:
    width = float(h.starts[1] - h.starts[0])
    # A bar of few steps is drawn so high that it can be seen.
    seen = np.where(h.shares > 0, np.maximum(h.shares, LEAST_SEEN * h.shares.max()), 0.0)
    axis.bar(h.starts[:-1] + (width - 1) / 2, seen, width * 0.86, color=s.color)
    axis.set_ylim(0, 1.3 * float(seen.max()))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    mean = f"mean {decimal(h.mean)}"
    if alone:
        axis.set_ylabel("share of the steps")
        _mark(axis, h.mean, mean, "-", 0.97)
        return
    axis.set_yticks([])
    axis.set_title(f"{s.run.name}: {mean}", color=INK, fontsize=8, pad=2)


def _mark(axis: Axes, x: float, label: str, line: Any, height: float) -> None:
    """Draws a vertical line with a label beside it, at this part of the axis' height."""
    axis.axvline(x, color=MUTED, linewidth=1.2, linestyle=line)
    axis.annotate(label, (x, height), (3, 0), xycoords=("data", "axes fraction"), color=MUTED,
                  textcoords="offset points", va="top", fontsize=8)  # fmt: skip
