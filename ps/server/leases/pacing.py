"""Decides how much work a worker gets at a time, from how fast each of them is.

A **round** is what a worker does between two pushes: its local steps, of a batch each. A lease is
several rounds. Leases follow guided self-scheduling (Polychronopoulos and Kuck 1987, section 4): a
lease is a part of what is left, so leases are large at first and small near the end, where a large
one would keep the others waiting. Here that part is in proportion to the worker's speed. A worker's
first leases have 1, 2, 4, … rounds, since its speed is hardly known by then.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

LEASE_S: Final = 2.0  # of work at most: speeds are measured again soon, and a loss costs little
LEFT_FOR_LATER: Final = 2  # leases share out this part of what is left: 1 / LEFT_FOR_LATER
# The lengths that a round may have, in steps of the slowest worker. A longer round costs the others
# less by rounding, and pushes are rarer. But where a push is stale by a round or more, as under
# ssp, longer rounds make it staler, so only the first length is used.
LENGTHS: Final = np.linspace(3.0, 5.0, 41)
WORTH_A_CHANGE: Final = 1.02  # another length must be so much faster, since speeds are not exact
ROUNDING: Final = 0.05  # a round may be too long by this part of a step: times are not exact
MAX_AUTO_STEPS: Final = 64  # a round has no more, however fast its worker is
LEAST_BATCH: Final = 1 / 16  # no batch is a smaller part of --batch-size: it would be overhead


@dataclass(frozen=True, slots=True)
class Pace:
    """A worker's batch size, and the speed that it reports."""

    batch_size: int  # as the worker was started
    samples_per_s: float = 0.0  # while it computes; 0 while that is unknown

    @property
    def is_known(self) -> bool:
        """Whether the worker has reported a speed."""
        return self.samples_per_s > 0


@dataclass(frozen=True, slots=True)
class Round:
    """The batch size and the local steps of a worker between two pushes."""

    batch_size: int
    local_steps: int

    @property
    def samples(self) -> int:
        """The samples that the worker trains on in this round."""
        return self.batch_size * self.local_steps


Paces = Mapping[int, Pace]  # those of the workers that take part, by rank
Rounds = Mapping[int, Round]


class RoundPlanner:
    """Plans each worker's round, again and again as speeds become known."""

    def __init__(self, *, weighted: bool, local_steps: int | None) -> None:
        """Begins with the shortest rounds.

        Args:
            weighted: batches are in proportion to the speeds; otherwise each worker has its own.
            local_steps: of every worker; None for as many as let all push at about the same time.
        """
        self._weighted: Final = weighted
        self._local_steps: Final = local_steps
        self._length = 0  # the index in LENGTHS of the rounds' length now

    def plan(self, paces: Paces, *, lockstep: bool) -> dict[int, Round]:
        """Plans the next rounds of these workers.

        Args:
            paces: of the workers that take part.
            lockstep: whether all push equally often, whatever their speed, as under bsp.
        """
        if self._weighted:
            batches = _weighted_batches(paces)
        else:
            batches = {worker: pace.batch_size for worker, pace in paces.items()}
        if self._local_steps is None:
            steps = self._equal_times(paces, batches, lengths=LENGTHS if lockstep else LENGTHS[:1])
        else:
            steps = dict.fromkeys(paces, self._local_steps)
        return {worker: Round(batches[worker], steps[worker]) for worker in paces}

    def _equal_times(
        self, paces: Paces, batches: Mapping[int, int], *, lengths: npt.NDArray[np.float64]
    ) -> dict[int, int]:
        """Chooses the length of a round that is best for all, and the steps that fit into it."""
        if not all(pace.is_known for pace in paces.values()):
            return dict.fromkeys(paces, 1)
        samples = np.array([batches[worker] for worker in paces])
        step_s = samples / np.array([pace.samples_per_s for pace in paces.values()])
        fitting = np.floor(lengths[:, None] * (step_s.max() / step_s) + ROUNDING)
        steps = np.minimum(fitting, MAX_AUTO_STEPS)  # rows are lengths, columns are workers
        samples_per_s = steps @ samples / (steps * step_s).max(axis=1)
        best = int(samples_per_s.argmax())
        kept = min(self._length, len(lengths) - 1)
        if samples_per_s[best] > WORTH_A_CHANGE * samples_per_s[kept]:
            kept = best
        self._length = kept
        return {worker: int(n) for worker, n in zip(paces, steps[self._length], strict=True)}


def lease_samples(
    worker: int, number: int, free: int, paces: Paces, rounds: Rounds, *, lockstep: bool
) -> int:
    """Decides how many samples this worker is to get now, in whole rounds; fewer may be left.

    Args:
        worker: its rank.
        number: of the lease, from 1. A worker's first steps say little about its speed, so its
            first leases are short: one round, two, four, and so on.
        free: how many samples of the epoch no worker has.
        paces: of the workers that take part.
        rounds: of these workers.
        lockstep: whether all push equally often, whatever their speed, as under bsp.
    """
    own = rounds[worker]
    if not all(pace.is_known for pace in paces.values()):
        return own.samples  # enough to measure its speed; the next rounds follow from it
    if lockstep:
        share, round_s = own.samples / samples_together(rounds), _slowest_s(paces, rounds)
    else:
        share, round_s = _speed_share(worker, paces), own.samples / paces[worker].samples_per_s
    of_what_is_left = free * share / LEFT_FOR_LATER / own.samples
    most = min(of_what_is_left, LEASE_S / round_s, 2.0 ** min(number - 1, 60))
    return max(1, int(most)) * own.samples


def last_samples(
    worker: int, free: int, at_first: int, paces: Paces, rounds: Rounds, *, lockstep: bool
) -> int:
    """Decides the same when too little is left for a round of all, and no epoch follows.

    Args:
        worker: its rank.
        free: as in `lease_samples`.
        at_first: how many were free when they were first too few. In lockstep each worker gets a
            share of that number, so that each pushes once more.
        paces: of the workers that take part.
        rounds: of these workers.
        lockstep: as in `lease_samples`.
    """
    own = rounds[worker]
    if lockstep:
        batches = math.ceil(at_first * own.local_steps / samples_together(rounds))
    else:
        batches = int(free * _speed_share(worker, paces) / LEFT_FOR_LATER / own.batch_size)
    return min(max(1, batches), own.local_steps) * own.batch_size


def samples_together(rounds: Rounds) -> int:
    """The samples of one round of all workers."""
    return sum(one.samples for one in rounds.values())


def _weighted_batches(paces: Paces) -> dict[int, int]:
    """Sizes batches in proportion to the speeds; their mean stays as the workers were started."""
    mean = sum(pace.batch_size for pace in paces.values()) / len(paces)
    if not all(pace.is_known for pace in paces.values()):
        return {worker: pace.batch_size for worker, pace in paces.items()}
    mean_speed = sum(pace.samples_per_s for pace in paces.values()) / len(paces)
    # If a step takes the same time whatever its batch, a smaller batch lowers the measured speed,
    # which shrinks the batch again. The least batch ends that.
    least = max(1, round(mean * LEAST_BATCH))
    return {
        worker: max(
            least,
            min(2, pace.batch_size),  # no batch of one, where nobody has asked for it
            round(mean * pace.samples_per_s / mean_speed),
        )
        for worker, pace in paces.items()
    }


def _slowest_s(paces: Paces, rounds: Rounds) -> float:
    """The seconds that a round takes the slowest worker."""
    return max(rounds[worker].samples / pace.samples_per_s for worker, pace in paces.items())


def _speed_share(worker: int, paces: Paces) -> float:
    """This worker's share of the speed of all; 0 while speeds are unknown."""
    together = sum(pace.samples_per_s for pace in paces.values())
    return paces[worker].samples_per_s / together if together else 0.0
