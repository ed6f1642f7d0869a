"""EM over the workers of a run: statistics are summed by the server, under bsp.

Each step is one push_pull of one chunk::

    present     (workers)  a one from each that takes part in this step
    statistics  (size)     what it has computed

The server's optimizer is `sum`, so the answer is the sum over all workers whose push was part of
the step, the same bits for everybody. A worker that died is missing in `present`. The others divide
what it should have computed among themselves, and add it in a further step before anybody goes on.
So the statistics are always those of all samples, each counted once, whoever dies and whenever.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from leash.ps.errors import LeashError, UsageError
from leash.ps.options.addresses import shown_learners
from leash.ps.options.server import CHUNK_STEP_KIB
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from leash.worker.em.family import Floats
from leash.worker.em.fitting import Compute

F64_NBYTES: Final = 8


def statistics_layout(workers: int, size: int) -> Layout:
    """Lays out what the server of a run for EM serves.

    Args:
        workers: how many take part.
        size: the length of a vector of statistics.

    Returns:
        A layout of two slots, `present` and `statistics`.
    """
    return Layout([Slot("present", "f64", (workers,)), Slot("statistics", "f64", (size,))])


def chunk_kib_for(workers: int, size: int) -> int:
    """The size of a chunk that holds the whole layout, so that a step counts as a whole or not."""
    return CHUNK_STEP_KIB * -(-(workers + size) * F64_NBYTES // (CHUNK_STEP_KIB * 1024))


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

    def __init__(self, client: Client, workers: int) -> None:
        """Takes part from the first step on.

        Args:
            client: its layout is `statistics_layout(workers, …)`.
            workers: how many take part.

        Raises:
            LeashError: the run has begun without this worker.
        """
        self._client: Final = client
        self._workers: Final = workers
        self._slab: Final = client.slabs[0]
        self._values: Final[Floats] = self._slab.view(np.float64)
        self._present: list[int] = list(range(1, workers + 1))
        if client.steps:
            raise LeashError("this run has begun: the others have taken over this worker's share")

    @property
    def reports(self) -> bool:
        """Whether this worker is the one to tell the results: the first of those present."""
        return self._present[0] == self._client.rank

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
        total = np.zeros(size)
        missing: list[range] = [range(units)]
        while missing:
            shares = divide(missing, self._present)
            before = self._present
            total += self._step(compute(shares[self._client.rank]))
            lost = [rank for rank in before if rank not in self._present]
            missing = [run for rank in lost for run in shares[rank]]
        return total

    def agree(self, done: bool) -> bool:
        """Whether any of the workers that are present is done, this one included."""
        return bool(self._step(np.array([float(done)]))[0])

    def _step(self, statistics: Floats) -> Floats:
        """Takes one step: returns the sum, and notes whose statistics are in it."""
        values, workers, end = self._values, self._workers, self._workers + len(statistics)
        values[:] = 0  # the slab still holds the last answer, which is not to be pushed again
        values[self._client.rank - 1] = 1
        values[workers:end] = statistics
        self._client.push_pull(self._slab, self._slab, samples=1)
        self._present = [int(rank) + 1 for rank in np.flatnonzero(values[:workers])]
        return values[workers:end].copy()


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
