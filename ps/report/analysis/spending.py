"""What each worker did with its time: computing, exchanging, waiting, or gone.

    here ────────────────────────────────────────────────────────────── gone ───
    computing ▸ push travels ▸ waiting (parked at the server) ▸ reply travels ▸ computing …

The server's events tell the waiting to the microsecond. What travels is known only from the
worker's own account, once a second: the time from a push to its answer, less the waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leash.ps.report.analysis.run import Accounts, Floats, Interval, Run, Track
from leash.ps.words import DONE


@dataclass(frozen=True)
class Spending:
    """Seconds of one worker in each bin of time; arrays of one length."""

    computing: Floats
    exchanging: Floats
    waiting: Floats
    gone: Floats  # and not because its part was done

    @property
    def here(self) -> Floats:
        return self.computing + self.exchanging + self.waiting

    @property
    def total(self) -> "Spending":
        """All bins as one."""
        columns = (self.computing, self.exchanging, self.waiting, self.gone)
        return Spending(*(np.array([column.sum()]) for column in columns))

    def share(self, name: str) -> float:
        """Of the whole time that the worker was here, 0 to 1."""
        here = float(self.here.sum())
        return float(getattr(self, name).sum()) / here if here > 0 else 0.0


def spending(run: Run, track: Track, edges: Floats) -> Spending:
    """What a worker did between these times.

    Where not every step was recorded (`--step-events`), the worker's own account is all there is:
    then the waiting includes the exchanging.
    """
    here = _covered(track.working, edges)
    gone = _covered(_absences(run, track), edges)
    if run.step_events == 1:
        waiting = np.minimum(_covered(track.steps.waiting, edges), here)
        exchanging = np.minimum(_exchanging(track, edges), here - waiting)
    else:
        waiting = np.minimum(_waited(track, edges), here)
        exchanging = np.zeros_like(here)
    return Spending(here - waiting - exchanging, exchanging, waiting, gone)


def knows_waiting(run: Run) -> bool:
    """Is there anything that tells computing from waiting?"""
    recorded = run.step_events == 1 and any(len(track.steps.step) for track in run.tracks)
    return recorded or any(len(track.accounts.t) for track in run.tracks)


def knows_exchanging(run: Run) -> bool:
    return run.step_events == 1 and any(len(track.accounts.t) for track in run.tracks)


def spent(run: Run) -> dict[int, Spending]:
    """Worker ▸ what it did in the whole run."""
    edges = np.array([0.0, max(run.seconds, 1e-9)])
    return {track.worker: spending(run, track, edges) for track in run.tracks}


def _covered(intervals: Sequence[Interval], edges: Floats) -> Floats:
    """Seconds of each bin that lie in the intervals, which are in order and do not overlap."""
    if not intervals:
        return np.zeros(len(edges) - 1)
    ends = np.asarray(intervals, dtype=np.float64)
    lengths = np.maximum(ends[:, 1] - ends[:, 0], 0.0)
    until = np.concatenate([[0.0], np.cumsum(lengths)])
    knots = np.column_stack([until[:-1], until[1:]]).ravel()  # covered before each of `ends`
    return np.diff(np.interp(edges, ends.ravel(), knots))


def _absences(run: Run, track: Track) -> list[Interval]:
    """From each of its ends to its return, or to the end of the run; not after it was done."""
    returns = [start for start, _ in track.present[1:]] + [run.seconds]
    ends = zip(track.present, track.reasons, returns, strict=True)
    return [(stop, back) for (_, stop), reason, back in ends if reason != DONE and back > stop]


def _running_total(values: Floats) -> Floats:
    """A new process counts from 0 again: its seconds come on top of those before it."""
    steps = np.diff(values, prepend=0.0)
    return np.cumsum(np.where(steps < 0, values, steps))


def reported_wait_s(accounts: Accounts) -> Floats:
    return _running_total(accounts.wait_s)


def reported_compute_s(accounts: Accounts) -> Floats:
    return _running_total(accounts.compute_s)


def _waited(track: Track, edges: Floats) -> Floats:
    accounts = track.accounts
    if not len(accounts.t):
        return np.zeros(len(edges) - 1)
    told = np.interp(edges, [0.0, *accounts.t], [0.0, *reported_wait_s(accounts)])
    return np.diff(told)


def _exchanging(track: Track, edges: Floats) -> Floats:
    accounts = track.accounts
    if not len(accounts.t):
        return np.zeros(len(edges) - 1)
    parked = np.cumsum(_covered(track.steps.waiting, np.array([-np.inf, *accounts.t])))
    # An account may be as old as a wait is long: only what stays is exchanging.
    total = np.maximum.accumulate(np.maximum(reported_wait_s(accounts) - parked, 0.0))
    return np.diff(np.interp(edges, [0.0, *accounts.t], [0.0, *total]))
