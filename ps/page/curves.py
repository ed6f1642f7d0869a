"""Accuracy, loss, speed and the number of workers over time and over steps, for the page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from leash.ps.page.keys import View, ViewKey, line
from leash.ps.page.lanes import changes_view
from leash.ps.report.analysis.run import Floats, Run
from leash.ps.report.analysis.series import (
    Curve,
    accuracy,
    differ_much,
    errors_differ_much,
    speed,
    test_loss,
    training_loss,
)
from leash.ps.report.pictures.style import BLUE, ORANGE, RUN_COLORS

Series = tuple[ViewKey, Curve]

LOGGED_NAMES: Final = 12
LOGGED_POINTS: Final = 400  # of a worker


def accuracy_views(run: Run) -> list[View]:
    """Test accuracy over time and over steps; [] before the first evaluation."""
    curve = accuracy(run)
    if not len(curve[0]):
        return []
    scale = "errors" if errors_differ_much(curve[1]) else "linear"
    series = [(line("test", BLUE), curve)]
    return _over_time_and_steps(run, "accuracy", "Test accuracy", series, unit="%", scale=scale)


def loss_views(run: Run) -> list[View]:
    """Test and training loss over time and over steps; [] before the first is known."""
    curves = [("training", ORANGE, training_loss(run)), ("test", BLUE, test_loss(run))]
    series = [(line(name, color), curve) for name, color, curve in curves if len(curve[0])]
    if not series:
        return []
    values = np.concatenate([curve[1] for _, curve in series])
    return _over_time_and_steps(
        run, "loss", "Loss", series, unit="", scale="log" if differ_much(values) else "linear",
        note="Mean per sample.",
    )  # fmt: skip


def speed_view(run: Run, measured: Curve | None = None, *, wide: bool = True) -> View | None:
    """Steps a second of all workers.

    Args:
        run: whose they are.
        measured: seconds and steps/s, if somebody has counted them; by default the recorded steps.
        wide: whether it takes the page's whole width.
    """
    curve = measured if measured is not None else speed(run)
    if not len(curve[0]):
        return None
    series = [(line("steps/s", BLUE), curve)]
    return _lines(run, "speed", "Steps a second, of all workers", series, unit="steps/s", fill=True,
                  wide=wide)  # fmt: skip


def traffic_view(run: Run, received: Curve, sent: Curve) -> View | None:
    """Bytes a second that the server has received and sent, over seconds."""
    if not len(received[0]):
        return None
    series = [(line("gradients received", BLUE), received), (line("answers sent", ORANGE), sent)]
    return _lines(run, "bytes", "Bytes a second", series, unit="B/s")


def logged_views(run: Run) -> list[View]:
    """What the workers' own loops have logged over time: a picture for each name."""
    by_name: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in run.logged:
        for name, value in row.metrics.items():
            by_name.setdefault(name, {}).setdefault(row.worker, []).append((row.t, value))
    return [
        _lines(run, f"logged-{name}", name, _by_worker(points), unit="", note=_shown_of(points))
        for name, points in list(by_name.items())[:LOGGED_NAMES]
    ]


def _by_worker(points: Mapping[int, Sequence[tuple[float, float]]]) -> list[Series]:
    series = []
    for (worker, of_one), color in zip(sorted(points.items()), RUN_COLORS, strict=False):
        table = np.array(of_one, dtype=np.float64)
        table = table[:: max(1, len(table) // LOGGED_POINTS)]
        series.append((line(f"worker {worker}", color), (table[:, 0], table[:, 1])))
    return series


def _shown_of(points: Mapping[int, object]) -> str:
    told, all_of_them = min(len(points), len(RUN_COLORS)), len(points)
    return f"The first {told} of {all_of_them} workers." if told < all_of_them else ""


def crew_view(run: Run) -> View | None:
    """How many workers took part when, of a run whose workers come and go."""
    if " to " not in run.crew or run.seconds <= 0:
        return None
    ends = [end for track in run.tracks for interval in track.present for end in interval]
    t = np.unique(np.clip([0.0, *ends, run.seconds], 0.0, run.seconds))
    series = [(line("workers", BLUE), (t, run.workers_at(t)))]
    return _lines(run, "crew", "Who was there", series, unit="workers", fill=True, wide=True,
                  stepped=True)  # fmt: skip


def _over_time_and_steps(
    run: Run, name: str, title: str, series: Sequence[Series], **how: Any
) -> list[View]:
    views = [_lines(run, f"{name}-over-time", f"{title} over time", series, **how)]
    by_steps = [(key, _by_steps(run.steps_at, curve)) for key, curve in series]
    if all(curve is not None for _, curve in by_steps):
        told = [(key, curve) for key, curve in by_steps if curve is not None]
        views.append(_lines(run, f"{name}-over-steps", f"{title} over steps", told, x="steps",
                            **how))  # fmt: skip
    return views


def _by_steps(steps_at: Callable[[Floats], Floats | None], curve: Curve) -> Curve | None:
    steps = steps_at(curve[0])
    return None if steps is None else (steps, curve[1])


def _lines(
    run: Run, name: str, title: str, series: Sequence[Series], *, x: str = "time", **how: Any
) -> View:
    if x == "time":
        how |= {"end": run.seconds, "changes": changes_view(run)}
    return lines_view(name, title, series, x=x, **how)


def lines_view(
    name: str, title: str, series: Sequence[Series], *, unit: str, x: str = "time",
    time_is: str = "time", end: float | None = None, changes: Sequence[View] = (),
    scale: str = "linear", fill: bool = False, wide: bool = False, stepped: bool = False,
    points: bool = True, note: str = "", has_legend: bool = True,
) -> View:  # fmt: skip
    """Curves with common axes.

    Args:
        name: of the picture, unique on the page.
        title: what stands above it.
        series: legend entries with their curves.
        unit: of what the curves show, such as "%".
        x: "time", then the curves' x are seconds; or "steps".
        time_is: how the axis of time is called.
        end: of the axis of time, in seconds.
        changes: of the policy, as `changes_view` has them.
        scale: of the y axis: "linear", "log", or "errors", which is logarithmic in 100 - y.
        fill: whether the area below is coloured.
        wide: whether it takes the page's whole width.
        stepped: whether a value holds until the next one.
        points: whether each value has a dot, if they are few; a single one always has.
        note: how to read it.
        has_legend: whether it has a legend of its own, if there is more than one curve.
    """
    return {
        "kind": "lines", "name": name, "title": title, "note": note, "wide": wide, "x": x,
        "time_is": time_is, "unit": unit, "scale": scale, "fill": fill, "stepped": stepped,
        "points": points,
        "keys": [key for key, _ in series] if has_legend and len(series) > 1 else [],
        "series": [
            {**key, "x": np.round(curve[0], 3).tolist(), "y": _told(curve[1])}
            for key, curve in series
        ],
        "end": end, "changes": list(changes),
    }  # fmt: skip


def _told(values: Floats) -> list[float | None]:
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in values.tolist()]
