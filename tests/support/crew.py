"""Workers of unequal speed in virtual time: they lease, train and wait, as real ones do."""

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from leash.ps.server.leases.leases import Leases
from leash.ps.wire.messages import OVER, REST, TRAIN, Lease, Leased

REST_S = 0.05


@dataclass
class SimulatedWorker:
    """Where a worker is in its lease, and in its run."""

    rank: int
    step_s: float  # for a batch of the size that all were started with
    number: int = 0
    clock: int = 0
    answered: int = 0
    speed: float = 0.0
    lease: Leased | None = None
    done: int = 0  # samples of its lease
    in_flight: int = 0  # samples of the push that waits


@dataclass
class Crew:
    """A run under a bound: 0 is bsp, None asp."""

    leases: Leases
    step_s: Mapping[int, float]  # by rank
    size: int
    batch_size: int = 100
    epochs: int = 1
    bound: int | None = None
    scales: bool = False  # a step takes its time for each sample, not for each batch
    now_s: float = 0.0
    seen: Counter[tuple[int, int]] = field(default_factory=Counter)  # (epoch, position)
    rounds: Counter[int] = field(default_factory=Counter)  # pushes, by rank
    samples: Counter[int] = field(default_factory=Counter)  # by rank
    orders: list[Leased] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tie = itertools.count()
        self._queue: list[tuple[float, int, int]] = []  # when, tie, rank
        self._workers = {rank: SimulatedWorker(rank, s) for rank, s in self.step_s.items()}
        self._clocked: dict[int, SimulatedWorker] = {}  # those whose clocks count

    def run(self) -> float:
        """Trains to the end; returns the seconds that it took."""
        for worker in self._workers.values():
            self._join(worker)
            self._ask(worker)
        while self._queue:
            self.now_s, _, rank = heapq.heappop(self._queue)
            worker = self._workers[rank]
            if worker.in_flight:
                self._push(worker)
            else:
                self._ask(worker)
        return self.now_s

    def _join(self, worker: SimulatedWorker) -> None:
        least = min((other.clock for other in self._clocked.values()), default=0)
        worker.clock = max(worker.clock, least)
        self._clocked[worker.rank] = worker

    def _ask(self, worker: SimulatedWorker) -> None:
        worker.number += 1
        lease = Lease(worker.rank, 1, worker.number, self.size, self.epochs, self.batch_size,
                      worker.speed)  # fmt: skip
        order = self.leases.ask(lease, worker.answered, lockstep=self.bound == 0)
        self.orders.append(order)
        if order.order == TRAIN:
            worker.lease, worker.done = order, 0
            self.seen.update(
                (order.epoch, p) for p in range(order.first, order.first + order.count)
            )
            self._begin_round(worker)
            return
        self._clocked.pop(worker.rank, None)
        self._release()
        if order.order == REST:
            self._later(worker, REST_S)
        else:
            assert order.order == OVER, order

    def _begin_round(self, worker: SimulatedWorker) -> None:
        lease = worker.lease
        assert lease is not None
        left = lease.count - worker.done
        worker.in_flight = min(left, lease.batch_size * lease.local_steps)
        steps = -(-worker.in_flight // lease.batch_size)
        if left - worker.in_flight == 1:  # the last one joins the batch before it
            worker.in_flight += 1
        batches = worker.in_flight / self.batch_size if self.scales else steps
        worker.speed = worker.in_flight / (batches * worker.step_s)
        self._later(worker, batches * worker.step_s)

    def _push(self, worker: SimulatedWorker) -> None:
        worker.clock += 1
        self.rounds[worker.rank] += 1
        self.samples[worker.rank] += worker.in_flight
        self._release()

    def _release(self) -> None:
        """Whoever has pushed, and is not too far ahead, goes on."""
        least = min((worker.clock for worker in self._clocked.values()), default=0)
        waiting = {rank for _, _, rank in self._queue}
        for worker in list(self._clocked.values()):
            ahead = self.bound is not None and worker.clock - least > self.bound
            if worker.in_flight and worker.rank not in waiting and not ahead:
                worker.answered += worker.in_flight
                worker.done += worker.in_flight
                worker.in_flight = 0
                assert worker.lease is not None
                if worker.done < worker.lease.count:
                    self._begin_round(worker)
                else:
                    self._ask(worker)
                    return self._release()
        return None

    def _later(self, worker: SimulatedWorker, seconds: float) -> None:
        heapq.heappush(self._queue, (self.now_s + seconds, next(self._tie), worker.rank))
