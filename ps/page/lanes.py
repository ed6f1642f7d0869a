"""What each worker did when, for the page: a lane for each, in bins of time or step by step."""

import base64
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from leash.ps.page.keys import View, ViewKey, patch
from leash.ps.report.analysis.lanes import HEIGHTS_ARE, chosen_tracks, closer_window, has_few_steps
from leash.ps.report.analysis.run import Floats, Run, Track
from leash.ps.report.analysis.series import edges_of
from leash.ps.report.analysis.spending import (
    AT_ITS_END,
    Spending,
    knows_exchanging,
    knows_waiting,
    spending,
)
from leash.ps.report.pictures.style import STATE_COLORS

PAGE_LANES: Final = 256  # more are too thin to be seen
CLOSER_LANES: Final = 24  # of a closer look
LANE_BINS: Final = 240
FULL: Final = 200  # stands for all of a bin, in one byte

_Shares: TypeAlias = npt.NDArray[np.uint8]

OF_A_BIN: Final = ("computing", "exchanging", "held back", "gone")  # the order of the bytes


def lanes_view(
    run: Run, edges: Floats | None = None, *, most: int = PAGE_LANES, until_s: float = 0.0
) -> View | None:
    """The lanes of all workers; None if nobody took part.

    Args:
        run: whose workers they are.
        edges: of the bins, in seconds; by default bins of one length over all of the run.
        most: of more workers, so many are shown, evenly chosen.
        until_s: where the axis of time ends, if that is after the run's end.
    """
    tracks = chosen_tracks(run, most)
    if not tracks or run.seconds <= 0:
        return None
    end_s = max(until_s, run.seconds)
    if edges is None:
        is_long = 2 * run.seconds >= end_s  # otherwise a step has too little room to be seen
        if is_long and has_few_steps(run, tracks, 0.0, run.seconds):
            view = _steps_view(run, tracks, (0.0, run.seconds), "What each worker did", "")
            return {**view, "end": end_s}
        edges = edges_of(run.seconds, _bins(tracks, run.seconds / end_s))
    done = [spending(run, track, edges) for track in tracks]
    shares = _shares(done)
    return {
        "kind": "lanes", "name": "lanes", "title": "What each worker did", "wide": True,
        "note": _note(run, len(tracks)), "keys": _keys(run, done),
        "workers": [track.worker for track in tracks],
        "begin": float(edges[0]), "end": max(float(edges[-1]), until_s),
        "bin": float(edges[1] - edges[0]), "bins": len(edges) - 1,
        "shares": [base64.b64encode(of_one.tobytes()).decode() for of_one in shares],
        "changes": changes_view(run),
    }  # fmt: skip


def closer_view(run: Run, *, at_the_end: bool = False) -> View | None:
    """A few steps, one by one: of the run's middle, or the newest.

    None if the lanes show them all, or not every step is known.
    """
    tracks = chosen_tracks(run, CLOSER_LANES)
    window = closer_window(run, tracks, at_the_end=at_the_end)
    if window is None or has_few_steps(run, tracks, 0.0, run.seconds):
        return None
    note = "A few steps, one by one."
    if any(track.steps.lag.any() for track in tracks):
        note += " A bar ends where the worker pushes; the policy holds it back until it may go on."
    there = sum(bool(track.present) for track in run.tracks)
    if len(tracks) < there:
        note += f" {len(tracks)} of {there} workers, evenly chosen."
    return _steps_view(run, tracks, window, "A closer look", note)


def changes_view(run: Run) -> list[View]:
    """When the policy was changed, and to what."""
    return [
        {"t": change.t, "label": " ".join(filter(None, (change.policy, str(change.bound or ""))))}
        for change in run.changes
    ]


def _bins(tracks: Sequence[Track], part: float) -> int:
    """So many bins that each can be seen on this part of an axis, and holds several steps.

    With fewer steps in a bin, their beat with the bins would look like a pattern.
    """
    steps = max(len(track.steps.step) for track in tracks) or 4 * LANE_BINS
    return int(np.clip(steps / 4, 12, max(12, LANE_BINS * part)))


def _shares(done: Sequence[Spending]) -> _Shares:
    """The shares of each bin, a byte for each state: see `FULL`. Shape (workers, bins, states)."""
    seconds = np.array([(d.computing, d.exchanging, d.held_back, d.gone) for d in done])
    total_s = np.maximum(seconds.sum(axis=1, keepdims=True), 1e-12)
    shares: _Shares = np.clip(np.round(FULL * seconds / total_s), 0, FULL).astype(np.uint8)
    return shares.transpose(0, 2, 1)


def _note(run: Run, shown: int) -> str:
    sampled = f"one step in {run.step_events}" if run.step_events else "no step"
    recorded = f"With --step-events {run.step_events} {sampled} was recorded"
    if run.is_thinned:
        recorded = f"So many steps are taken that {sampled} is read"
    if run.step_events != 1 and knows_waiting(run):
        how = f"{recorded}; this is from the workers' own accounts of computing and waiting."
    elif run.step_events != 1:
        how = f"{recorded}: this tells only who took part."
    elif knows_waiting(run):
        how = HEIGHTS_ARE
    else:
        how = "No step was taken yet."
    notes = [how]
    there = sum(bool(track.present) for track in run.tracks)
    if shown < there:
        notes.append(f"{shown} of {there} workers, evenly chosen.")
    return " ".join(notes)


def _keys(run: Run, done: Sequence[Spending]) -> list[ViewKey]:
    """The legend of the states that this run knows."""
    names = {state: state for state in OF_A_BIN[:3]}
    if not knows_waiting(run):
        names = {"computing": "taking part"}
    elif not knows_exchanging(run):
        is_exact = run.step_events == 1
        own = "computing or exchanging" if is_exact else "computing"
        names = {"computing": own, "held back": "held back" if is_exact else "waiting"}
    if any(of_one.gone.sum() > 0 for of_one in done):
        names["gone"] = "gone"
    return [patch(label, STATE_COLORS[state]) for state, label in names.items()]


def _steps_view(
    run: Run, tracks: Sequence[Track], window: tuple[float, float], title: str, note: str
) -> View:
    start_s, stop_s = window
    edges = np.array(window)
    done = [spending(run, track, edges) for track in tracks]
    return {
        "kind": "steps", "name": "closer" if note else "lanes", "title": title, "wide": True,
        "note": note, "keys": _keys(run, done), "workers": [track.worker for track in tracks],
        "begin": start_s, "end": stop_s,
        "spans": [
            _spans(run, track, of_one, window) for track, of_one in zip(tracks, done, strict=True)
        ],
        "changes": changes_view(run),
    }  # fmt: skip


def _spans(
    run: Run, track: Track, done: Spending, window: tuple[float, float]
) -> list[tuple[float, float, int]]:
    """What a worker did, as (from, to, state by its place in `OF_A_BIN`); later ones lie above."""
    spans = [(a, b, 0) for a, b in track.working if b >= window[0] and a <= window[1]]
    own_s = float(done.computing[0] + done.exchanging[0])
    travelling = float(done.exchanging[0]) / own_s if own_s > 0 else 0.0
    steps = track.steps
    # A step that began in the window may be pushed after it.
    last_s = 2 * window[1] - window[0]
    seen = (steps.replied_s >= window[0]) & (steps.pushed_s <= last_s)
    columns = (column[seen].tolist() for column in (steps.began_s, steps.pushed_s, steps.replied_s))
    for began, pushed, replied in zip(*columns, strict=True):
        if travelling > 0 and np.isfinite(began):
            half_s = travelling * (pushed - began) / 2
            spans += [(began, began + half_s, 1), (pushed - half_s, pushed, 1)]
        spans.append((pushed, replied, 2))
    returns = [start for start, _ in track.present[1:]] + [run.seconds]
    for (_, stop), reason, back in zip(track.present, track.reasons, returns, strict=True):
        if reason not in AT_ITS_END and back > stop:
            spans.append((stop, back, 3))
    return [(round(a, 5), round(b, 5), state) for a, b, state in spans]
