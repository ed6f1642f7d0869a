"""Draws a simulated worker's times: how long it works and its messages travel, when it fails."""

from typing import Final

import numpy as np

from leash.ps.simulate.cluster import Cluster
from leash.ps.slowness.delays import COMPUTING, FAILING, SLEEPING, TRAVELLING, Delays, seed_for


class WorkerTimes:
    """The times of one worker, drawn one after the other from the seed."""

    def __init__(self, cluster: Cluster, rank: int, seed: int) -> None:
        place = rank - 1
        slow = Delays(cluster.slow[place], seed=seed, rank=rank, use=SLEEPING)
        compute = Delays(cluster.compute[place], seed=seed, rank=rank, use=COMPUTING)
        network = Delays(cluster.network[place], seed=seed, rank=rank, use=TRAVELLING)
        self._slow_s: Final = slow.next
        self._compute_s: Final = compute.next
        # Seconds of the run so far ▸ what a message takes that leaves then, one way.
        self.travel_s: Final = network.next
        self._stretch: Final = 1.0 / cluster.ratios[place]
        self._failures: Final = cluster.failures
        self._generator: Final = (
            np.random.Generator(np.random.PCG64(seed_for(seed, rank, FAILING)))
            if cluster.failures
            else None
        )

    def work_s(self, now_s: float, batches: int) -> float:
        """Draws how long this number of batches takes, beginning now."""
        done_s = now_s
        for _ in range(batches):
            done_s += self._slow_s(done_s)
            done_s += self._compute_s(done_s) * self._stretch
        return done_s - now_s

    def life_s(self) -> float:
        """Draws how long the worker lives until it fails."""
        assert self._generator
        assert self._failures
        return float(self._generator.exponential(self._failures.mtbf_s))
