"""Draws accuracy, loss and speed over time and over steps."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from leash.ps.report.analysis.run import Floats, Run
from leash.ps.report.analysis.series import (
    LEAST_ERROR,
    Curve,
    accuracy,
    differ_much,
    errors_differ_much,
    speed,
    test_loss,
    training_loss,
)
from leash.ps.report.pictures.drawing import (
    Key,
    Picture,
    count_axis,
    mark_changes,
    new_figure,
    time_axis,
)
from leash.ps.report.pictures.lineup import Shown
from leash.ps.report.pictures.style import BLUE, INK, ORANGE

HEIGHT_IN: Final = 2.7
SPEED_HEIGHT_IN: Final = 1.9
# Of an axis that is logarithmic in the errors.
ACCURACY_TICKS: Final = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99)


def curve_pictures(shown: Sequence[Shown]) -> list[Picture]:
    """Draws accuracy and loss over time and over steps, as far as the runs have them."""
    pictures = []
    if any(len(accuracy(s.run)[0]) for s in shown):
        pictures += _pair(shown, "accuracy", "Test accuracy", _draw_accuracy)
    if any(len(c(s.run)[0]) for s in shown for c in (test_loss, training_loss)):
        pictures += _pair(shown, "loss", "Loss", _draw_loss)
    return pictures


def _pair(
    shown: Sequence[Shown],
    name: str,
    title: str,
    draw: Callable[[Axes, Sequence[Shown], Callable[[Run, Curve], Curve]], None],
) -> list[Picture]:
    def over_time(width_in: float) -> Figure:
        figure, (axis,) = new_figure(width_in, HEIGHT_IN)
        draw(axis, shown, lambda run, curve: (curve[0] / _scale(shown, run), curve[1]))
        _common_time_axis(axis, shown)
        if len(shown) == 1:
            mark_changes(axis, shown[0].run.changes)
        return figure

    def over_steps(width_in: float) -> Figure:
        figure, (axis,) = new_figure(width_in, HEIGHT_IN)
        draw(axis, shown, _by_steps)
        count_axis(axis, "steps of all workers")
        return figure

    keys = _keys(shown, name)
    pictures = [Picture(f"{name}-over-time", f"{title} over time", over_time, keys)]
    if any(s.run.steps_at(np.zeros(1)) is not None for s in shown):
        pictures.append(Picture(f"{name}-over-steps", f"{title} over steps", over_steps, keys))
    return pictures


def _scale(shown: Sequence[Shown], run: Run) -> float:
    """How much to stretch a run's time: beside others it is drawn at full scale."""
    return run.scale if len(shown) > 1 else 1.0


def _common_time_axis(axis: Axes, shown: Sequence[Shown]) -> None:
    time_axis(axis, max(s.run.seconds / _scale(shown, s.run) for s in shown))
    if len(shown) > 1 and any(s.run.scale != 1 for s in shown):
        axis.set_xlabel(axis.get_xlabel().replace("time,", "time at full scale,"))


def _keys(shown: Sequence[Shown], name: str) -> tuple[Key, ...]:
    if len(shown) > 1:
        return tuple(dict.fromkeys(Key(s.label, s.color, s.line) for s in shown))
    if name == "loss":
        curves = (("training", ORANGE, training_loss), ("test", BLUE, test_loss))
        return tuple(Key(w, color, "-") for w, color, of in curves if len(of(shown[0].run)[0]))
    return ()


def _by_steps(run: Run, curve: Curve) -> Curve:
    steps = run.steps_at(curve[0])
    return (steps, curve[1]) if steps is not None else (np.empty(0), np.empty(0))


# Drawing.


def _draw_accuracy(
    axis: Axes, shown: Sequence[Shown], along: Callable[[Run, Curve], Curve]
) -> None:
    values = [np.empty(0)]
    for s in shown:
        x, y = along(s.run, accuracy(s.run))
        values.append(y)
        axis.plot(x, y, color=s.color, linestyle=s.line, linewidth=1.6, markersize=3,
                  marker="o" if len(shown) == 1 or len(x) == 1 else "")  # fmt: skip
        if len(shown) == 1 and len(x):
            _label_last(axis, x, y, f"{y[-1]:.2f} %")
    _scale_accuracy(axis, np.concatenate(values))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    axis.set_xlim(left=0)


def _scale_accuracy(axis: Axes, values: Floats) -> None:
    """Makes the axis logarithmic in the errors if they differ much, so good runs look different."""
    if not errors_differ_much(values):
        return
    errors = np.maximum(100.0 - values, LEAST_ERROR)
    axis.set_yscale("function", functions=(
        lambda y: -np.log10(np.maximum(100.0 - y, LEAST_ERROR)), lambda v: 100.0 - 10.0**-v,
    ))  # fmt: skip
    lowest, highest = 100.0 - 1.15 * errors.max(), 100.0 - errors.min() / 1.15
    axis.set_ylim(max(0.0, lowest), highest)
    axis.set_yticks([tick for tick in ACCURACY_TICKS if lowest <= tick <= highest])


def _draw_loss(axis: Axes, shown: Sequence[Shown], along: Callable[[Run, Curve], Curve]) -> None:
    values = [np.empty(0)]
    for s in shown:
        curves = [(training_loss(s.run), ORANGE, 1.2), (test_loss(s.run), BLUE, 1.6)]
        if len(shown) > 1:
            curves = [(curves[1 if len(curves[1][0][0]) else 0][0], s.color, 1.6)]
        for curve, color, width in curves:
            x, y = along(s.run, curve)
            marker = "o" if curve is not curves[0][0] or len(y) < 2 else ""
            axis.plot(x, y, color=color, linestyle=s.line, linewidth=width, marker=marker,
                      markersize=3)  # fmt: skip
            values.append(y)
    _scale_loss(axis, np.concatenate(values))
    axis.set_xlim(left=0)


def _scale_loss(axis: Axes, values: Floats) -> None:
    axis.set_ylabel("mean per sample")
    if differ_much(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    elif len(values) and values.min() >= 0:
        axis.set_ylim(bottom=0)


def _label_last(axis: Axes, x: Floats, y: Floats, text: str) -> None:
    axis.annotate(text, (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center",
                  color=INK, fontweight="bold", annotation_clip=False)  # fmt: skip


def crew_picture(run: Run) -> Picture | None:
    """Draws how many workers took part when, of a run whose workers come and go."""
    if " to " not in run.crew or run.seconds <= 0:
        return None
    ends = [end for track in run.tracks for interval in track.present for end in interval]
    t = np.unique(np.clip([0.0, *ends, run.seconds], 0.0, run.seconds))
    workers = run.workers_at(t)

    def make(width_in: float) -> Figure:
        figure, (axis,) = new_figure(width_in, SPEED_HEIGHT_IN)
        axis.fill_between(t, workers, step="post", color=BLUE, alpha=0.15, linewidth=0)
        axis.step(t, workers, where="post", color=BLUE, linewidth=1.6)
        axis.set(ylim=(0, None), xlim=(0, run.seconds), ylabel="workers that take part")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        time_axis(axis, run.seconds)
        return figure

    return Picture("workers", "Who was there", make, is_wide=True)


def speed_picture(shown: Sequence[Shown]) -> Picture | None:
    """Draws the steps a second of each run."""
    curves = [(s, *speed(s.run)) for s in shown]
    if not any(len(t) for _, t, _ in curves):
        return None

    def make(width_in: float) -> Figure:
        figure, (axis,) = new_figure(width_in, HEIGHT_IN if len(shown) > 1 else SPEED_HEIGHT_IN)
        for s, measured_s, steps_per_s in curves:
            scale = _scale(shown, s.run)
            t, per_s = measured_s / scale, steps_per_s * scale
            if len(shown) == 1:
                axis.fill_between(t, per_s, color=s.color, alpha=0.15, linewidth=0)
            axis.plot(t, per_s, color=s.color, linestyle=s.line, linewidth=1.6,
                      marker="o" if len(t) == 1 else "")  # fmt: skip
        longest_s = max(s.run.seconds / _scale(shown, s.run) for s in shown)
        axis.set(ylim=(0, None), xlim=(0, max(longest_s, 1e-9)), ylabel="steps/s, all workers")
        _common_time_axis(axis, shown)
        if len(shown) == 1:
            mark_changes(axis, shown[0].run.changes)
        return figure

    return Picture(
        "steps-per-second", "Speed", make, _keys(shown, "speed"), is_wide=len(shown) == 1
    )
