"""Chooses the workers and the steps that a timeline shows."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from leash.ps.report.analysis.run import Run, Track

HEIGHTS_ARE: Final = (
    "The height of a colour is its share of that moment; blue is time spent computing."
)
MAX_LANES: Final = 64
VISIBLE_STEPS: Final = 60  # a lane has room for so many steps
CLOSER_STEPS: Final = 10  # the closer look shows so many of the slowest worker


def chosen_tracks(run: Run, most: int = MAX_LANES) -> list[Track]:
    """The workers to draw: all, or evenly chosen ones if they are too many to be seen."""
    tracks = [track for track in run.tracks if track.present]
    if len(tracks) <= most:
        return tracks
    places = np.unique(np.linspace(0, len(tracks) - 1, most).round().astype(int))
    return [tracks[place] for place in places]


def closer_window(
    run: Run, tracks: Sequence[Track], *, at_the_end: bool = False
) -> tuple[float, float] | None:
    """A window that is as long as some steps of the slowest worker; or None.

    Args:
        run: whose window it is.
        tracks: the workers that it shows.
        at_the_end: it has the newest steps, and not those in the run's middle.
    """
    if run.step_events != 1:
        return None
    cycles = [np.median(np.diff(t.steps.replied_s)) for t in tracks if len(t.steps.step) > 2]
    if not cycles or max(cycles) <= 0:
        return None
    length_s = min(CLOSER_STEPS * float(max(cycles)), run.seconds)
    middle_s = float(np.median(run.pushed_s()))
    latest_s = run.seconds - length_s
    start_s = latest_s if at_the_end else min(max(0.0, middle_s - length_s / 2), latest_s)
    return start_s, start_s + length_s


def has_few_steps(run: Run, tracks: Sequence[Track], start_s: float, stop_s: float) -> bool:
    """Whether no lane has more steps in this window than can be seen one by one."""
    if run.step_events != 1:
        return False
    counts = [
        int(np.count_nonzero((t.steps.pushed_s >= start_s) & (t.steps.pushed_s <= stop_s)))
        for t in tracks
    ]
    return 0 < max(counts, default=0) <= VISIBLE_STEPS
