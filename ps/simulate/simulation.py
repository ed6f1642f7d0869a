"""Plays a run in virtual time: workers, a server and a policy's clock, but no computing.

A worker goes through a circle of events. The policy decides only how long it waits:

::

    begin ─▸ (delay, compute) ─▸ pushed ─▸ (network) ─▸ arrive: the server's queue, the gate's tick
      ▴                                                                  │
      └──── answered ◂─ (network) ◂─ the server's link ◂─ let go ◂───────┘ perhaps not at once

The queue has one event for each step, its arrival; the times between two arrivals are added up.
"""

import heapq
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol

import numpy as np

from leash.ps.options.base import DEFAULT_SEED
from leash.ps.options.plan import turns
from leash.ps.simulate.cluster import Cluster
from leash.ps.simulate.reply_gate import Gate
from leash.ps.simulate.worker_times import WorkerTimes
from leash.ps.words import wait_fraction

PROGRESS_STEPS: Final = 5000  # between two calls of `on_progress`


class Work(Protocol):
    """Hands out batches to workers."""

    def take(self, rank: int, most: int) -> int:
        """Hands out batches to this worker, `most` at most; 0 when it has no more to do."""

    def give_back(self, rank: int, batches: int) -> None:
        """Takes back the batches over which this worker died."""


class FixedShares:
    """Gives each worker the same number of batches, as --data-plan static does."""

    def __init__(self, workers: int, batches_each: int) -> None:
        self._left: Final = [0, *[batches_each] * workers]  # by rank

    def take(self, rank: int, most: int) -> int:
        taken = min(most, self._left[rank])
        self._left[rank] -= taken
        return taken

    def give_back(self, rank: int, batches: int) -> None:
        self._left[rank] += batches


class SharedWork:
    """Gives the next batches to any worker that is free, as --data-plan lease does."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def take(self, rank: int, most: int) -> int:
        taken = min(most, self._left)
        self._left -= taken
        return taken

    def give_back(self, rank: int, batches: int) -> None:
        self._left += batches


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a worker, from its beginning to the answer, in seconds of the run."""

    worker: int
    began_s: float
    pushed_s: float
    taken_s: float  # when the server has taken the push, behind those of others
    released_s: float  # when the policy lets the answer go
    answered_s: float


@dataclass(slots=True)
class _Worker:
    rank: int
    times: WorkerTimes
    life: int = 0  # grows when it dies or leaves: events of an earlier life do nothing
    is_alive: bool = False
    is_member: bool = False  # whether the others wait for it
    is_told: bool = False  # to leave, once its step is answered
    batches: int = 0  # those that it works on
    began_s: float = 0.0
    pushed_s: float = 0.0
    came_s: float = 0.0  # when its newest push came to the server, and when it was taken
    taken_s: float = 0.0
    version: int = 0  # how many updates its parameters have seen
    steps: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0


@dataclass(slots=True)
class SimulationTotals:
    """The sums and maxima of a simulated run."""

    seconds: float = 0.0
    batches: int = 0
    pushes: int = 0
    max_lag: int = 0
    staleness_sum: int = 0
    failures: int = 0
    wait_fractions: list[float] = field(default_factory=list)  # each worker's, by rank
    wait_fraction: float = 0.0  # that of all workers' time together
    held_fraction: float = 0.0  # of that time, waiting for other workers, as the policy has it
    server_fraction: float = 0.0  # waiting for the server: its link, its work, and those before one
    step_s: "array[float]" = field(default_factory=lambda: array("d"))  # what each step took

    @property
    def mean_staleness(self) -> float:
        return self.staleness_sum / max(1, self.pushes)

    def step_percentile(self, percent: float) -> float:
        return float(np.percentile(self.step_s, percent)) if self.step_s else 0.0


class Simulation:
    """Plays one run."""

    def __init__(
        self, cluster: Cluster, gate: Gate, work: Work, *, seed: int = DEFAULT_SEED,
        local_steps: int = 1, on_step: Callable[[Step], None] | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Begins at time 0, with nothing done.

        Args:
            cluster: the machines, and the network between them and the server.
            gate: decides when a reply may go out.
            work: hands out batches.
            seed: of the machines' delays.
            local_steps: how many batches a worker computes between two pushes.
            on_step: is told of every step that was answered.
            on_progress: is told now and then how many batches are done.
        """
        self._cluster: Final = cluster
        self._gate: Final = gate
        self._work: Final = work
        self._local_steps: Final = local_steps
        self._on_step: Final = on_step
        self._on_progress: Final = on_progress
        # The server works on a chunk while the next one arrives, so the longer of the two counts.
        self._service_s: Final = max(cluster.server_s, cluster.transfer_s)
        self._workers: Final = {
            rank: _Worker(rank, WorkerTimes(cluster, rank, seed))
            for rank in range(1, cluster.workers + 1)
        }
        # (time, tie-breaker, method, worker, its life; None where that does not matter)
        self._events: Final[list[Any]] = []
        self._numbers: Final = count()
        self._inbound_free_s = 0.0  # when the server's link and its work on pushes are free
        self._outbound_free_s = 0.0
        self._held_s = 0.0  # of all workers
        self._server_s = 0.0
        self._outcome: Final = SimulationTotals()

    def run(self) -> SimulationTotals:
        """Plays the run to its end."""
        at_first = self._cluster.at_first or len(self._workers)
        first = [worker for rank, worker in self._workers.items() if rank <= at_first]
        for worker in first:
            self._join(worker)
        for worker in first:
            self._start(worker, 0.0)
        self._plan_changes(at_first)
        while self._events:
            now_s, _, happens, worker, life = heapq.heappop(self._events)
            if life is None or worker.life == life:
                happens(worker, now_s)
        return self._result()

    def _at(self, time_s: float, happens: Callable[[_Worker, float], None], w: _Worker) -> None:
        heapq.heappush(self._events, (time_s, next(self._numbers), happens, w, w.life))

    def _plan_changes(self, workers: int) -> None:
        """Has workers join and leave at their times: the newest leave first."""
        for turn in turns(workers, self._cluster.changes):
            happens = self._come if turn.joins else self._tell_to_leave
            event = (turn.at_s, next(self._numbers), happens, self._workers[turn.rank], None)
            heapq.heappush(self._events, event)

    # The circle.

    def _join(self, worker: _Worker) -> None:
        self._gate.join(worker.rank)
        worker.is_alive = worker.is_member = True

    def _start(self, worker: _Worker, now_s: float) -> None:
        """Begins a life of this worker."""
        worker.version = self._gate.version()
        if self._cluster.failures:
            self._at(now_s + worker.times.life_s(), self._fail, worker)
        self._begin(worker, now_s)

    def _begin(self, worker: _Worker, now_s: float) -> None:
        most = 0 if worker.is_told else self._local_steps
        worker.batches = self._work.take(worker.rank, most) if most else 0
        if not worker.batches:
            self._at(now_s, self._leave, worker)
            return
        times = worker.times
        worker.began_s = now_s
        worker.pushed_s = pushed_s = now_s + times.work_s(now_s, worker.batches)
        self._at(pushed_s + times.travel_s(pushed_s), self._arrive, worker)

    def _arrive(self, worker: _Worker, now_s: float) -> None:
        worker.came_s = now_s
        self._inbound_free_s = now_s = max(now_s, self._inbound_free_s) + self._service_s
        worker.taken_s = now_s
        outcome = self._outcome
        outcome.staleness_sum += self._gate.version() - worker.version
        outcome.batches += worker.batches
        outcome.pushes += 1
        if outcome.pushes % PROGRESS_STEPS == 0:
            self._on_progress(outcome.batches)
        worker.steps += 1
        worker.batches = 0
        self._answer(self._gate.tick(worker.rank, now_s), now_s)

    def _answer(self, ranks: Sequence[int], now_s: float) -> None:
        outcome, gate = self._outcome, self._gate
        # All workers that are answered at one time get the same parameters.
        version = gate.version()
        for rank in ranks:
            worker = self._workers[rank]
            if not worker.is_alive:
                continue  # it has died, and the others still wait for it
            worker.version = version
            outcome.max_lag = max(outcome.max_lag, gate.lag(rank))
            self._outbound_free_s = max(now_s, self._outbound_free_s) + self._cluster.transfer_s
            left_s = self._outbound_free_s
            self._held_s += now_s - worker.taken_s
            self._server_s += worker.taken_s - worker.came_s + left_s - now_s
            self._answered(worker, now_s, left_s + worker.times.travel_s(left_s))

    def _answered(self, worker: _Worker, released_s: float, now_s: float) -> None:
        worker.busy_s += worker.pushed_s - worker.began_s
        worker.waited_s += now_s - worker.pushed_s
        self._outcome.step_s.append(now_s - worker.began_s)
        self._outcome.seconds = max(self._outcome.seconds, now_s)
        if self._on_step:
            self._on_step(Step(worker.rank, worker.began_s, worker.pushed_s, worker.taken_s,
                               released_s, now_s))  # fmt: skip
        self._begin(worker, now_s)

    # Workers that go, and come back.

    def _come(self, worker: _Worker, now_s: float) -> None:
        """Has a worker join that does not take part, or was told to leave and has not yet."""
        worker.is_told = False
        if not worker.is_alive:
            self._return(worker, now_s)

    def _tell_to_leave(self, worker: _Worker, _: float) -> None:
        worker.is_told = True

    def _leave(self, worker: _Worker, now_s: float) -> None:
        """Lets a worker leave that has no more to do."""
        self._end_life(worker)
        self._forget(worker, now_s)

    def _fail(self, worker: _Worker, now_s: float) -> None:
        failures = self._cluster.failures
        assert failures is not None
        self._outcome.failures += 1
        self._end_life(worker)
        self._work.give_back(worker.rank, worker.batches)
        worker.batches = 0
        self._at(now_s + failures.evict_s, self._forget, worker)
        self._at(now_s + failures.restart_s, self._return, worker)

    def _return(self, worker: _Worker, now_s: float) -> None:
        if worker.is_told:
            return  # it has left for good, while it was away
        # If it comes back before its eviction, its eviction is now.
        self._forget(worker, now_s)
        worker.life += 1
        self._join(worker)
        self._start(worker, now_s)

    def _end_life(self, worker: _Worker) -> None:
        worker.life += 1
        worker.is_alive = False

    def _forget(self, worker: _Worker, now_s: float) -> None:
        if worker.is_member:
            worker.is_member = False
            self._answer(self._gate.leave(worker.rank), now_s)

    def _result(self) -> SimulationTotals:
        outcome, workers = self._outcome, self._workers.values()
        outcome.wait_fractions = [_share(w.waited_s, w.busy_s) for w in workers]
        waited_s, busy_s = sum(w.waited_s for w in workers), sum(w.busy_s for w in workers)
        outcome.wait_fraction = _share(waited_s, busy_s)
        outcome.held_fraction = _share(self._held_s, waited_s + busy_s - self._held_s)
        outcome.server_fraction = _share(self._server_s, waited_s + busy_s - self._server_s)
        self._on_progress(outcome.batches)
        return outcome


def _share(waited_s: float, busy_s: float) -> float:
    return wait_fraction(waited_s, busy_s) or 0.0
