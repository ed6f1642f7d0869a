"""Stepwise EM on mini-batches, under ssp.

O. Cappé and E. Moulines, "On-line expectation-maximization algorithm for latent data models", 2009,
arXiv:0712.4273, section 2.2. The server keeps the running average of a sample's sufficient
statistics, s ← (1 - γ) s + γ ŝ with γ = (t + 2)^-0.6 (optimizer `sum`, schedule `power`). A worker
makes parameters of what it pulled, and pushes the statistics ŝ of its next mini-batch. In the paper
t counts the mini-batches of one process; here it counts those of all workers, and the s that a
worker pulls may lack the newest mini-batches of the others, as far as the bound allows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from leash.ps.errors import EvictedError
from leash.worker.client import Client
from leash.worker.em.distributed import statistics_of
from leash.worker.em.fitting import PARTS, Fit, size_of, split

SampleIndices = npt.NDArray[np.int64]


def fit_online(
    fits: Sequence[Fit], client: Client, workers: int, *, passes: int, batch_size: int, seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> None:  # fmt: skip
    """Fits all mixtures; each worker of the run calls this, with its own client.

    Args:
        fits: the mixtures and their samples, the same in every worker.
        client: of this worker.
        workers: how many take part.
        passes: how often to go over this worker's share.
        batch_size: samples of each mixture in a step.
        seed: of the order of samples.
        on_step: called with the number of mixtures.

    Raises:
        ValueError: a component has collapsed.
    """
    average = _Average(fits, client, workers)
    average.begin()
    for number in range(1, passes + 1):
        for batches in _batches(fits, client.rank, workers, batch_size, [seed, number]):
            average.push(batches)
            on_step(len(fits))
    average.pull()
    for fit in fits:
        _end(fit, passes)


class _Average:
    """The average statistics of a sample: the server keeps them, and a slab here has a copy."""

    def __init__(self, fits: Sequence[Fit], client: Client, workers: int) -> None:
        self._fits: Final = fits
        self._client: Final = client
        self._slab: Final = client.slabs[0]
        self._values: Final = statistics_of(self._slab, workers)[: size_of(fits)]
        self._parts: Final = split(fits, self._values)  # views

    def begin(self) -> None:
        """Makes the start the first value: all workers compute the same, and one sends it."""
        for fit, part in zip(self._fits, self._parts, strict=True):
            part[:] = fit.start(0) / len(fit.samples)
        self._client.begin(self._slab)
        self._take()

    def push(self, batches: Sequence[SampleIndices]) -> None:
        for fit, part, batch in zip(self._fits, self._parts, batches, strict=True):
            assert fit.parameters is not None
            found = fit.family.expectation(fit.parameters, fit.prepared[batch])
            part[:] = fit.family.to_absolute(found, fit.parameters) / max(len(batch), 1)
        try:
            self._client.push_pull(self._slab, self._slab, samples=1)
        except EvictedError:  # these mini-batches are lost, if they were not taken before
            self._join_again()
        self._take()

    def pull(self) -> None:
        try:
            self._client.pull(self._slab)
        except EvictedError:
            self._join_again()
        self._take()

    def _join_again(self) -> None:
        """Says hello once more, and has the average as it is now."""
        while True:
            try:
                self._client.rejoin()
                self._client.pull(self._slab)
            except EvictedError:
                continue
            return

    def _take(self) -> None:
        """Makes parameters of the statistics that the server sent."""
        for fit, part in zip(self._fits, self._parts, strict=True):
            fit.parameters = fit.family.maximisation(part * len(fit.samples), None)


def _batches(
    fits: Sequence[Fit], rank: int, workers: int, batch_size: int, entropy: list[int]
) -> Iterator[list[SampleIndices]]:
    """Gives each of this worker's samples once, in mini-batches of all mixtures side by side."""
    rng = np.random.default_rng([*entropy, rank])
    first, stop = ((rank - 1 + i) * PARTS // workers for i in (0, 1))
    orders = []
    for fit in fits:
        begin, end = (part * len(fit.samples) // PARTS for part in (first, stop))
        orders.append(begin + rng.permutation(end - begin))
    steps = max(1, -(-max(map(len, orders)) // batch_size))
    yield from map(list, zip(*(np.array_split(order, steps) for order in orders), strict=True))


def _end(fit: Fit, passes: int) -> None:
    """Ends a fit without a test of convergence: its lower bound is that of the end."""
    found = fit.statistics([range(PARTS)])
    fit.lower_bounds, fit.converged = [float(found[0] / found[1])], False
    fit.keep_if_best()
    fit.finish()
    fit.mixture.n_iter_ = passes
