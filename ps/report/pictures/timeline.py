"""Draws what each worker did when, as a lane for each.

Steps that are wide enough to be seen are drawn one by one. Otherwise a lane is cut into bins, and
the height of a bin is divided as the worker divided its time.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from leash.ps.report.analysis.lanes import chosen_tracks, closer_window, has_few_steps
from leash.ps.report.analysis.run import Floats, Run, Track
from leash.ps.report.analysis.series import edges_of
from leash.ps.report.analysis.spending import (
    AT_ITS_END,
    Spending,
    knows_exchanging,
    knows_waiting,
    spending,
    spent,
)
from leash.ps.report.pictures.drawing import (
    Key,
    Picture,
    mark_changes,
    new_figure,
    time_axis,
)
from leash.ps.report.pictures.style import STATE_COLORS

MAX_BINS: Final = 160
STATES: Final = ("held back", "exchanging", "computing")  # from the bottom of a lane
LANE: Final = 0.78  # the part of its space that a lane fills


def timeline_picture(run: Run) -> Picture | None:
    """Draws the whole run; None if it had no worker."""
    return _timeline(run, run.seconds, "timeline", "What each worker did", is_wide=True)


def timeline_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Draws several runs on time axes of one length."""
    longest_s = max(run.seconds for run in runs)
    pictures = [
        _timeline(run, longest_s, f"timeline-{number}", f"Workers of {run.name}", is_wide=False)
        for number, run in enumerate(runs, start=1)
    ]
    return [picture for picture in pictures if picture is not None]


def _timeline(
    run: Run, longest_s: float, name: str, title: str, *, is_wide: bool
) -> Picture | None:
    tracks = chosen_tracks(run)
    if not tracks or run.seconds <= 0:
        return None
    exact = has_few_steps(run, tracks, 0.0, run.seconds)

    def make(width_in: float) -> Figure:
        figure, axis = _lanes(tracks, width_in)
        if exact:
            _draw_steps(axis, run, tracks, 0.0, run.seconds)
        else:
            _draw_shares(axis, run, tracks)
        axis.set_xlim(0, longest_s)
        time_axis(axis, longest_s)
        mark_changes(axis, run.changes)
        return figure

    return Picture(name, title, make, _keys(run), is_wide=is_wide)


def closer_picture(run: Run) -> Picture | None:
    """Draws a few steps of the run's middle one by one; None if the whole run shows them."""
    tracks = chosen_tracks(run)
    window = closer_window(run, tracks)
    if window is None or has_few_steps(run, tracks, 0.0, run.seconds):
        return None
    start_s, stop_s = window

    def make(width_in: float) -> Figure:
        figure, axis = _lanes(tracks, width_in)
        _draw_steps(axis, run, tracks, start_s, stop_s)
        axis.set(xlim=(start_s, stop_s), xlabel="time, s")
        return figure

    return Picture("closer-look", "A closer look", make, _keys(run), is_wide=True)


def _keys(run: Run) -> tuple[Key, ...]:
    return state_keys(run, with_gone=any(s.gone.sum() > 0 for s in spent(run).values()))


def state_keys(run: Run, *, with_gone: bool = False) -> tuple[Key, ...]:
    """The legend of the states that this run knows."""
    if not knows_waiting(run):
        states = {"taking part": STATE_COLORS["computing"]}
    elif not knows_exchanging(run):
        both = "held back" if run.step_events == 1 else "waiting"
        own = "computing" if run.step_events != 1 else "computing or exchanging"
        states = {own: STATE_COLORS["computing"], both: STATE_COLORS["held back"]}
    else:
        states = {state: STATE_COLORS[state] for state in reversed(STATES)}
    if with_gone:
        states["gone"] = STATE_COLORS["gone"]
    return tuple(Key(state, color) for state, color in states.items())


# Lanes.


def _lanes(tracks: Sequence[Track], width_in: float) -> tuple[Figure, Axes]:
    lane_in = float(np.interp(len(tracks), [1, 10, 64], [0.42, 0.26, 0.11]))
    figure, (axis,) = new_figure(width_in, 0.75 + lane_in * len(tracks))
    every = 1 if len(tracks) <= 24 else 4
    labels = [str(t.worker) if i % every == 0 else "" for i, t in enumerate(tracks)]
    axis.set_yticks(range(len(tracks)), labels)
    axis.set(ylim=(len(tracks) - 0.5, -0.5), ylabel="worker")
    axis.grid(axis="y", visible=False)
    return figure, axis


def _rectangle(x: float, width: float, lane: int) -> list[tuple[float, float]]:
    low, high = lane + LANE / 2, lane - LANE / 2
    return [(x, low), (x + width, low), (x + width, high), (x, high)]


def _add(axis: Axes, shapes: Sequence[Any], state: str) -> None:
    if shapes:
        axis.add_collection(
            PolyCollection(shapes, facecolors=STATE_COLORS[state], edgecolors="none", linewidths=0),
            autolim=False,
        )  # fmt: skip


def _draw_steps(
    axis: Axes, run: Run, tracks: Sequence[Track], start_s: float, stop_s: float
) -> None:
    """Draws each step: its reply travels, it is computed, its push travels and is held back."""
    window = np.array([start_s, stop_s])
    shapes: dict[str, list[Any]] = {state: [] for state in STATE_COLORS}
    for lane, track in enumerate(tracks):
        done = spending(run, track, window)
        own_s = float(done.computing[0] + done.exchanging[0])
        travelling = float(done.exchanging[0]) / own_s if own_s > 0 else 0.0
        for a, b in track.working:
            shapes["computing"].append(_rectangle(a, b - a, lane))
        _add_steps(shapes, track, lane, travelling, (start_s, stop_s))
        _add_absences(shapes, run, track, lane)
    for state in ("computing", "exchanging", "held back", "gone"):
        _add(axis, shapes[state], state)


def _add_steps(
    shapes: dict[str, list[Any]],
    track: Track,
    lane: int,
    travelling: float,
    window: tuple[float, float],
) -> None:
    steps = track.steps
    last_s = 2 * window[1] - window[0]  # a step that began in the window may be pushed after it
    seen = (steps.replied_s >= window[0]) & (steps.pushed_s <= last_s)
    columns = (column[seen].tolist() for column in (steps.began_s, steps.pushed_s, steps.replied_s))
    for began, pushed, replied in zip(*columns, strict=True):
        shapes["held back"].append(_rectangle(pushed, replied - pushed, lane))
        if travelling > 0 and np.isfinite(began):
            half = travelling * (pushed - began) / 2
            shapes["exchanging"].append(_rectangle(began, half, lane))
            shapes["exchanging"].append(_rectangle(pushed - half, half, lane))


def _add_absences(shapes: dict[str, list[Any]], run: Run, track: Track, lane: int) -> None:
    returns = [start for start, _ in track.present[1:]] + [run.seconds]
    for (_, stop), reason, back in zip(track.present, track.reasons, returns, strict=True):
        if reason not in AT_ITS_END:
            shapes["gone"].append(_rectangle(stop, back - stop, lane))


def _draw_shares(axis: Axes, run: Run, tracks: Sequence[Track]) -> None:
    # A bin holds several steps: otherwise their beat with the bins would look like a pattern.
    steps = max(len(track.steps.step) for track in tracks) or 4 * MAX_BINS
    bins = int(min(np.clip(4000 / len(tracks), 60, MAX_BINS), max(steps / 4, 12)))
    edges = edges_of(run.seconds, bins)
    shapes: dict[str, list[Any]] = {state: [] for state in STATE_COLORS}
    for lane, track in enumerate(tracks):
        own = np.unique(np.concatenate([edges, np.clip(np.ravel(track.working), 0, run.seconds)]))
        for state, outlines in lane_shapes(spending(run, track, own), own, lane).items():
            shapes[state].extend(outlines)
    for state, outlines in shapes.items():
        _add(axis, outlines, state)


def lane_shapes(done: Spending, edges: Floats, lane: int) -> dict[str, list[Any]]:
    """Outlines of each state in a lane, which is from `lane` + LANE / 2 to `lane` - LANE / 2."""
    # Shares of the time that is known: all of a bin, or none after the worker's end.
    total_s = np.maximum(done.here + done.gone, 1e-12)
    bottom = np.zeros(len(total_s))
    shapes = {}
    for state in (*STATES, "gone"):
        seconds = getattr(done, state.replace(" ", "_"))
        top = np.round(np.minimum(bottom + seconds / total_s, 1.0), 2)
        shapes[state] = [
            _outline(edges[a : b + 1], lane + LANE / 2 - LANE * bottom[a:b],
                     lane + LANE / 2 - LANE * top[a:b])
            for a, b in _stretches(top > bottom)
        ]  # fmt: skip
        bottom = top
    return shapes


def _stretches(flags: Any) -> list[tuple[int, int]]:
    """The runs of true flags, each as (first, one after the last)."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))


def _outline(edges: Floats, low: Floats, high: Floats) -> Floats:
    """A polygon between two staircases, with only the corners where one of them turns."""
    x = np.repeat(edges, 2)[1:-1]
    turns = np.concatenate([[True], (np.diff(low) != 0) | (np.diff(high) != 0), [True]])
    keep = np.repeat(turns, 2)[1:-1]
    there = np.column_stack([x, np.repeat(low, 2)])[keep]
    back = np.column_stack([x, np.repeat(high, 2)])[keep]
    return np.concatenate([there, back[::-1]])
