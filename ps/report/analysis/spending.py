"""Works out how each worker spent its time: computing, exchanging, held back, or gone.

    here ──────────────────────────────────────────────────────────────── gone ───
    computing ▸ push travels ▸ held back (parked at the server) ▸ reply travels ▸ computing …
                └────────────────────── waiting ──────────────────────┘

Waiting is from a push to its answer. How much of a worker's time that was, the summary says: the
server has worked it out for everybody who shows it. This module divides it. The server's events
tell to the microsecond how long the policy held a worker back; the rest of the waiting went into
exchanging.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from leash.ps.report.analysis.run import Accounts, Floats, Interval, Run, Track
from leash.ps.words import DONE, RESTING

AT_ITS_END: Final = (DONE, RESTING)  # a worker that leaves so has nothing left to do


@dataclass(frozen=True)
class Spending:
    """The seconds of one worker in each bin of time, as arrays of one length."""

    computing: Floats
    exchanging: Floats
    held_back: Floats  # by the policy, for the sake of others
    gone: Floats  # absent before its part was done

    @property
    def here(self) -> Floats:
        return self.computing + self.exchanging + self.held_back

    @property
    def total(self) -> "Spending":
        """The sums over all bins."""
        columns = (self.computing, self.exchanging, self.held_back, self.gone)
        return Spending(*(np.array([column.sum()]) for column in columns))

    def share(self, name: str) -> float:
        """The shares of the time that the worker was here, from 0 to 1."""
        here = float(self.here.sum())
        return float(getattr(self, name).sum()) / here if here > 0 else 0.0


def spending(run: Run, track: Track, edges: Floats) -> Spending:
    """Works out what a worker did between these times.

    If not every step was recorded (`--step-events`), only the worker's own account is known. Then
    all of its waiting counts as held back.
    """
    here = _covered(track.working, edges)
    gone = _covered(_absences(run, track), edges)
    if run.step_events == 1:
        held = np.minimum(_covered(track.steps.waiting, edges), here)
        exchanging = np.minimum(_exchanging(track, edges), here - held)
    else:
        held = np.minimum(_waited(track, edges), here)
        exchanging = np.zeros_like(here)
    return Spending(here - held - exchanging, exchanging, held, gone)


def knows_waiting(run: Run) -> bool:
    """Whether the files tell computing from waiting."""
    recorded = run.step_events == 1 and any(len(track.steps.step) for track in run.tracks)
    return recorded or any(len(track.accounts.t) for track in run.tracks)


def knows_exchanging(run: Run) -> bool:
    """Whether the files tell exchanging from being held back."""
    return run.step_events == 1 and any(len(track.accounts.t) for track in run.tracks)


def spent(run: Run) -> dict[int, Spending]:
    """Works out what each worker did in the whole run: worker ▸ its time."""
    edges = np.array([0.0, max(run.seconds, 1e-9)])
    return {track.worker: spending(run, track, edges) for track in run.tracks}


def waiting_by_worker(run: Run) -> dict[int, float]:
    """Each worker's waiting: as the summary has it, or without one as the events tell it."""
    if told := run.wait_fractions():
        return told
    if not knows_waiting(run):
        return {}
    return {worker: 1 - done.share("computing") for worker, done in spent(run).items()}


def waiting(run: Run) -> float | None:
    """The waiting of all workers together, likewise; None if it is unknown."""
    together = run.summary.get("wait_fraction")
    if together is not None:
        return float(together)
    by_worker = waiting_by_worker(run)
    if not by_worker:
        return None
    if run.wait_fractions():  # a summary of an earlier release
        return sum(by_worker.values()) / len(by_worker)
    done = spent(run).values()
    here_s = sum(float(d.here.sum()) for d in done)
    return 1 - sum(float(d.computing.sum()) for d in done) / here_s if here_s > 0 else None


def divided(run: Run, of_time: float, done: Sequence[Spending]) -> tuple[float, float, float]:
    """Divides a share of waiting.

    Args:
        run: whose workers have waited.
        of_time: the share.
        done: what these workers did.

    Returns:
        The shares of computing, exchanging and being held back. Where exchanging is not known, all
        of the waiting is the last one.
    """
    here_s = sum(float(d.here.sum()) for d in done)
    held = sum(float(d.held_back.sum()) for d in done) / here_s if here_s > 0 else 0.0
    held = min(held, of_time) if knows_exchanging(run) else of_time
    return 1 - of_time, of_time - held, held


def divided_together(run: Run) -> tuple[float, float, float] | None:
    """How the time of all workers together was divided, likewise; None if that is unknown."""
    share = waiting(run)
    return None if share is None else divided(run, share, [*spent(run).values()])


def _covered(intervals: Sequence[Interval] | Floats, edges: Floats) -> Floats:
    """The seconds of each bin that lie in the intervals; these are in order, without overlap."""
    if not len(intervals):
        return np.zeros(len(edges) - 1)
    ends = np.asarray(intervals, dtype=np.float64)
    lengths = np.maximum(ends[:, 1] - ends[:, 0], 0.0)
    until = np.concatenate([[0.0], np.cumsum(lengths)])
    knots = np.column_stack(
        [until[:-1], until[1:]]
    ).ravel()  # how many seconds are covered before each of `ends`
    return np.diff(np.interp(edges, ends.ravel(), knots))


def _absences(run: Run, track: Track) -> list[Interval]:
    """When a worker was absent: from an end to its return, or the run's end; not once done."""
    returns = [start for start, _ in track.present[1:]] + [run.seconds]
    ends = zip(track.present, track.reasons, returns, strict=True)
    return [
        (stop, back) for (_, stop), reason, back in ends if reason not in AT_ITS_END and back > stop
    ]


def _running_total(values: Floats) -> Floats:
    """Adds up seconds over processes, each of which counts from 0 again."""
    steps = np.diff(values, prepend=0.0)
    return np.cumsum(np.where(steps < 0, values, steps))


def reported_wait_s(accounts: Accounts) -> Floats:
    """The seconds that the worker reported to have waited, over all of its processes."""
    return _running_total(accounts.wait_s)


def reported_compute_s(accounts: Accounts) -> Floats:
    """The seconds that the worker reported to have computed, over all of its processes."""
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
    # An account may be older than a wait, so only what never goes down again is exchanging.
    total = np.maximum.accumulate(np.maximum(reported_wait_s(accounts) - parked, 0.0))
    return np.diff(np.interp(edges, [0.0, *accounts.t], [0.0, *total]))
