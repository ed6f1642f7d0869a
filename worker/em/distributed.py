"""EM over the workers of a run: statistics are summed by the server, under bsp.

Each step is one push_pull of one chunk::

    present     (workers)  a one from each that takes part in this step
    returned    (workers)  from each that joins again: 1 more than the sums that it knows
    told        (4)        of a sum that returned workers are told: see `Telling`
    statistics  (size)     what it has computed; or that sum

The server's optimizer is `sum`, so the answer is the sum over all workers whose push was part of
the step, the same bits for everybody. A worker that died is missing in `present`. The others divide
what it should have computed among themselves, and add it in a further step before anybody goes on.
So the statistics are always those of all samples, each counted once, whoever dies and whenever.

All that a worker does follows from the sums. So one that was evicted, and joins again, is told the
sums that it has missed, one in each step, by the first of those present; it computes what follows
from each, and then takes part as if it had never been away. The others keep the sums for that while
anybody is missing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from leash.ps.errors import EvictedError, LeashError, UsageError
from leash.ps.options.addresses import shown_learners
from leash.ps.options.server import CHUNK_STEP_KIB
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from leash.worker.client.memory import Slab
from leash.worker.em.family import Floats
from leash.worker.em.fitting import Compute

F64_NBYTES: Final = 8
KEPT_NBYTES: Final = 256 << 20  # of sums, for workers that may join again


@dataclass(frozen=True, slots=True)
class Telling:
    """What is said of a sum that returned workers are told; all 0 where none is.

    Attributes:
        number: 1 more than the number of that sum, counted from 0.
        of: how many sums there are by now.
        oldest: 1 more than the number of the oldest sum that is kept.
        check: of the newest sum that this worker knows; in other steps than these alone.
    """

    number: int = 0
    of: int = 0
    oldest: int = 0
    check: float = 0.0


TOLD: Final = 4
CHECKS: Final = 1 << 40  # so many different ones; those of all workers are added up exactly


def statistics_layout(workers: int, size: int) -> Layout:
    """Lays out what the server of a run for EM serves.

    Args:
        workers: how many take part.
        size: the length of a vector of statistics.

    Returns:
        A layout of the slots that the module draws.
    """
    slots = {"present": workers, "returned": workers, "told": TOLD, "statistics": size}
    return Layout([Slot(name, "f64", (values,)) for name, values in slots.items()])


def statistics_of(slab: Slab, workers: int) -> Floats:
    """The statistics in a slab of such a layout: a view."""
    values: Floats = slab.view(np.float64)
    return values[2 * workers + TOLD :]


def chunk_kib_for(workers: int, size: int) -> int:
    """The size of a chunk that holds the whole layout, so that a step counts as a whole or not."""
    values = 2 * workers + TOLD + size
    return CHUNK_STEP_KIB * -(-values * F64_NBYTES // (CHUNK_STEP_KIB * 1024))


def server_words(workers: int, size: int, *, online: bool, bound: int = 3) -> dict[str, Any]:
    """Lists the options with which a server serves EM, without its address.

    Args:
        workers: how many take part.
        size: the length of a vector of statistics.
        online: whether workers push mini-batches, under ssp, instead of all samples, under bsp.
        bound: the bound of ssp.

    Returns:
        The options by name.
    """
    common = {
        "workers": workers, "optimizer": "sum", "lr": 1.0,
        "chunk_kib": chunk_kib_for(workers, size), "step_events": 0,
    }  # fmt: skip
    if online:
        return {**common, "policy": "ssp", "bound": bound, "lr_schedule": "power"}
    return {**common, "policy": "bsp"}


class WorkerSums:
    """Adds up what all workers of a run compute; each worker has one. Implements `fitting.Sums`."""

    def __init__(self, client: Client, workers: int, kept_nbytes: int = KEPT_NBYTES) -> None:
        """Takes part from the first step on.

        Args:
            client: its layout is `statistics_layout(workers, …)`.
            workers: how many take part.
            kept_nbytes: so many bytes of sums are kept for those who may join again.

        Raises:
            LeashError: the run has begun without this worker.
        """
        self._client: Final = client
        self._workers: Final = workers
        self._slab: Final = client.slabs[0]
        values: Floats = self._slab.view(np.float64)
        self._values: Final = values
        self._here: Final = values[:workers]
        self._returned: Final = values[workers : 2 * workers]
        self._told: Final = values[2 * workers : 2 * workers + TOLD]
        self._statistics: Final = statistics_of(self._slab, workers)
        self._present: list[int] = list(range(1, workers + 1))
        self._count = 0  # of the sums that this worker knows
        self._check = 0.0  # of the newest of them
        self._kept: Final[deque[Floats]] = deque()  # the newest of them
        self._kept_nbytes: Final = kept_nbytes
        self._due: Final[deque[Floats]] = deque()  # those that nobody has asked for yet
        if client.steps:
            raise LeashError("this run has begun: the others have taken over this worker's share")

    @property
    def reports(self) -> bool:
        """Whether this worker is the one to tell the results: the first of those present.

        One that catches up with sums that it has missed is not: others have told.
        """
        return self._present[0] == self._client.rank and not self._due

    def total(self, units: int, size: int, compute: Compute) -> Floats:
        """The sum over all units, computed by all workers; a lost worker's share by the others.

        Args:
            units: how many there are to be divided among the workers.
            size: the length of the vectors.
            compute: the sum over some of the units.

        Returns:
            (size,), the same bits for every worker.

        Raises:
            LeashError: what ends this worker's part.
        """

        def add_up() -> Floats:
            total = np.zeros(size)
            missing: list[range] = [range(units)]
            while missing:
                shares = divide(missing, self._present)
                before = self._present
                total += self._step(compute(shares[self._client.rank]))
                lost = [rank for rank in before if rank not in self._present]
                missing = [run for rank in lost for run in shares[rank]]
            return total

        return self._sum(size, add_up)

    def agree(self, done: bool) -> bool:
        """Whether any of the workers that are present is done, this one included."""
        return bool(self._sum(1, lambda: self._step(np.array([float(done)])))[0])

    # How it is done.

    def _sum(self, size: int, add_up: Callable[[], Floats]) -> Floats:
        """The next sum: one that was missed, or one that `add_up` computes with the others."""
        while not self._due:
            try:
                self._take(add_up())
                self._tell_returned()
            except EvictedError:  # noqa: PERF203
                self._join_again()
        return self._due.popleft()[:size]

    def _take(self, total: Floats) -> None:
        """Takes the next sum; keeps it while anybody is missing, and the newest one always."""
        total = total + 0.0  # no -0, which a sum that is told would not have
        self._count += 1
        self._check = float(int(np.add.reduce(total.view(np.uint64))) % CHECKS)
        self._due.append(total)
        if len(self._present) == self._workers:
            self._kept.clear()
        self._kept.append(total)
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept) > self._kept_nbytes:
            self._kept.popleft()

    def _step(self, statistics: Floats) -> Floats:
        """Takes one step: returns the sum, and notes whose statistics are in it."""
        self._exchange(statistics, Telling(check=self._check))
        if self._told[-1] != self._check * len(self._present):
            raise LeashError("the workers have come to different sums: start this run again")
        return self._statistics[: len(statistics)].copy()

    def _exchange(
        self, statistics: Floats | None, telling: Telling, *, is_present: bool = True
    ) -> None:
        """Pushes this worker's part of a step, and has the sums of all in the slab."""
        values, rank = self._values, self._client.rank
        values[:] = 0  # the slab still holds the last answer, which is not to be pushed again
        self._here[rank - 1] = is_present
        self._returned[rank - 1] = 0 if is_present else self._count + 1
        self._told[:] = telling.number, telling.of, telling.oldest, telling.check
        if statistics is not None:
            self._statistics[: len(statistics)] = statistics
        self._client.push_pull(self._slab, self._slab, samples=1)
        self._present = [int(rank) + 1 for rank in np.flatnonzero(self._here)]

    def _known(self) -> dict[int, int]:
        """How many sums those know who had returned by the last step, by rank."""
        ranks = np.flatnonzero(self._returned)
        return {int(rank) + 1: int(self._returned[rank]) - 1 for rank in ranks}

    def _tell_returned(self) -> None:
        """Tells those who have joined again the sums that they miss; they take part from then on.

        All who are present take part in it: each knows from the last step who has returned.
        """
        while behind := self._behind():
            number = min(behind)
            while number < self._count:
                self._exchange(*self._to_tell(number))
                number = int(self._told[0]) or number  # 0 where who was to tell it has gone
            self._let_in(self._count)

    def _behind(self) -> list[int]:
        """How many sums each knows who waits to be told some."""
        known = self._known()
        return [n for rank, n in known.items() if rank not in self._present and n < self._count]

    def _to_tell(self, number: int) -> tuple[Floats | None, Telling]:
        """What this worker says of a sum: something if it is the first of those present."""
        if self._present[0] != self._client.rank:
            return None, Telling()
        oldest = self._count - len(self._kept)
        number = max(number, oldest)
        return self._kept[number - oldest], Telling(number + 1, self._count, oldest + 1)

    def _let_in(self, count: int) -> None:
        """Counts those as present who knew all sums of so many but the last, which was told now."""
        caught_up = [rank for rank, known in self._known().items() if known == count - 1]
        self._present = sorted({*self._present, *caught_up})

    def _join_again(self) -> None:
        """Says hello once more, and is told the sums that were computed without this worker.

        Raises:
            LeashError: it has been away for too long, or what else ends its part.
        """
        is_in = False
        while not is_in:
            try:
                self._client.rejoin()
                self._client.pull(self._slab)
                while not is_in:
                    is_in = self._ask()
            except EvictedError:  # noqa: PERF203
                continue

    def _ask(self) -> bool:
        """Takes a step as one who has returned; says whether it is present from now on."""
        self._exchange(None, Telling(), is_present=False)
        if not self._present:  # all have returned: those who know most are present
            known = self._known()
            self._present = [rank for rank in known if known[rank] == max(known.values())]
            if self._client.rank in self._present:
                self._tell_returned()
            return self._client.rank in self._present
        number, of, oldest = (int(value) for value in self._told[:3])
        if oldest > self._count + 1:
            raise LeashError("this worker was away for too long: the others do not keep all sums "
                             "that it has missed")  # fmt: skip
        if number != self._count + 1:
            return False
        self._take(self._statistics.copy())
        if number == of:
            self._let_in(of)
            self._tell_returned()  # others may have returned since
        return number == of


def divide(runs: Sequence[range], among: Sequence[int]) -> dict[int, list[range]]:
    """Cuts runs of units into shares of about equal size.

    Args:
        runs: the units, in order.
        among: the ranks that get a share.

    Returns:
        By rank, the runs of its share.
    """
    units = sum(map(len, runs))
    ends = [position * units // len(among) for position in range(len(among) + 1)]
    return {rank: _between(runs, *share) for rank, share in zip(among, pairwise(ends), strict=True)}


def _between(runs: Sequence[range], begin: int, end: int) -> list[range]:
    """The units from number `begin` to before number `end`, counted over all runs."""
    parts = []
    for run in runs:
        part = run[max(0, begin) : max(0, end)]
        if part:
            parts.append(part)
        begin, end = begin - len(run), end - len(run)
    return parts


def require_server(settings: dict[str, Any], chunks: int, size: int, *, online: bool) -> None:
    """Refuses a server that was not started for EM.

    Args:
        settings: what it was started with.
        chunks: how many chunks its model has; EM needs one.
        size: the length of a vector of statistics.
        online: whether workers are to push mini-batches.

    Raises:
        UsageError: the server was started for something else; the text names the command.
    """
    workers = settings["workers"]
    wanted = server_words(workers, size, online=online)
    names = ("policy", "optimizer", "lr", *(["lr_schedule"] if online else []))
    fits = all(settings.get(name) == wanted[name] for name in names)
    constant = online or settings.get("lr_schedule") == "constant"
    ranks = settings["learners"] == shown_learners(range(1, workers + 1))
    fits &= settings.get("least_workers", workers) == workers  # a sum is over all of them
    if fits and constant and ranks and chunks == 1:
        return
    words = " ".join(
        f"--{name.replace('_', '-')} {wanted[name]}"
        for name in ("policy", "optimizer", "lr", "lr_schedule", "workers", "chunk_kib")
        if name in wanted
    )
    raise UsageError(f"this server is not one for EM: start it with leash server {words}")
