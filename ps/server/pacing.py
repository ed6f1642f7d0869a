"""How much work a worker gets at a time, from how fast each of them is.

A **round** is what a worker does between two pushes: its local steps, of a batch each. A lease is a
number of rounds. Leases follow guided self-scheduling (Polychronopoulos and Kuck 1987, section 4):
a part of what is left, so they are large at first and small when the end is near, where a large one
would keep the others waiting. Here the part is in proportion to the worker's speed, and the first
leases of a worker are of 1, 2, 4, … rounds, since little is known of its speed by then.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

LEASE_S: Final = 2.0  # of work in a lease: soon measured again, and little is lost with a worker
LEFT_FOR_LATER: Final = 2  # a lease is at most its worker's share of 1 / so much of what is left
# Lengths of a round, in steps of the slowest worker: the longer it is, the less rounding costs the
# others, and the rarer are the pushes. Where staleness is one round or more, as under ssp, longer
# rounds are staler ones, and only the first of these is good.
LENGTHS: Final = np.linspace(3.0, 5.0, 41)
WORTH_A_CHANGE: Final = 1.02  # by so much faster another length has to be; speeds are never exact
ROUNDING: Final = 0.05  # of a step that a round may take too long; a measured time is never exact
MAX_AUTO_STEPS: Final = 64  # in a round, however fast a worker is beside the slowest
LEAST_BATCH: Final = 1 / 16  # of --batch-size: a smaller batch is all overhead


@dataclass(frozen=True, slots=True)
class Pace:
    """How a worker gets on, by its own account."""

    batch_size: int  # that it was started with
    samples_per_s: float = 0.0  # while it computes; 0 before it is known

    @property
    def is_known(self) -> bool:
        return self.samples_per_s > 0


@dataclass(frozen=True, slots=True)
class Round:
    """What a worker does between two pushes."""

    batch_size: int
    local_steps: int

    @property
    def samples(self) -> int:
        return self.batch_size * self.local_steps


Paces = Mapping[int, Pace]  # of the workers that take part, by rank
Rounds = Mapping[int, Round]


class RoundPlanner:
    """Each worker's round, as the workers' speeds are known by and by."""

    def __init__(self, *, weighted: bool, local_steps: int | None) -> None:
        """Begins with the shortest rounds.

        Args:
            weighted: batches are in proportion to the speeds; otherwise each worker has its own.
            local_steps: of every worker; None for as many as let all push at about the same time.
        """
        self._weighted: Final = weighted
        self._local_steps: Final = local_steps
        self._length = 0  # which of LENGTHS rounds have now

    def plan(self, paces: Paces, *, lockstep: bool) -> dict[int, Round]:
        """The rounds of these workers.

        Args:
            lockstep: all push equally often, whatever their speed, as under bsp.
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
        """As many steps for each as fit into a round, which is as long as suits them all best."""
        if not all(pace.is_known for pace in paces.values()):
            return dict.fromkeys(paces, 1)
        samples = np.array([batches[worker] for worker in paces])
        step_s = samples / np.array([pace.samples_per_s for pace in paces.values()])
        fitting = np.floor(lengths[:, None] * (step_s.max() / step_s) + ROUNDING)
        steps = np.minimum(fitting, MAX_AUTO_STEPS)  # by length and worker
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
    """How many samples this worker is to get now, in whole rounds; there may be fewer.

    Args:
        number: of its lease, from 1. What a worker's first steps took tells little of its speed, so
            it is soon asked again: its first leases are a round, two, four, and so on.
        free: samples of the epoch that nobody has.
        lockstep: all push equally often, whatever their speed, as under bsp.
    """
    own = rounds[worker]
    if not all(pace.is_known for pace in paces.values()):
        return own.samples  # enough to measure it; then the rounds will be others
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
    """The same when there is not a round for everybody any more, and no epoch to go on with.

    Args:
        free: as in `lease_samples`.
        at_first: of these, when they were first too few. In lockstep everybody gets a share of
            that, so that one more push by all of them is the last.
    """
    own = rounds[worker]
    if lockstep:
        batches = math.ceil(at_first * own.local_steps / samples_together(rounds))
    else:
        batches = int(free * _speed_share(worker, paces) / LEFT_FOR_LATER / own.batch_size)
    return min(max(1, batches), own.local_steps) * own.batch_size


def samples_together(rounds: Rounds) -> int:
    """In a round of everybody."""
    return sum(one.samples for one in rounds.values())


def _weighted_batches(paces: Paces) -> dict[int, int]:
    """In proportion to the speeds, with the mean that the workers were started with."""
    mean = sum(pace.batch_size for pace in paces.values()) / len(paces)
    if not all(pace.is_known for pace in paces.values()):
        return {worker: pace.batch_size for worker, pace in paces.items()}
    mean_speed = sum(pace.samples_per_s for pace in paces.values()) / len(paces)
    # Where a step takes its time whatever its batch, slower means smaller means slower: the least
    # batch is where that ends.
    least = max(1, round(mean * LEAST_BATCH))
    return {
        worker: max(least, round(mean * pace.samples_per_s / mean_speed))
        for worker, pace in paces.items()
    }


def _slowest_s(paces: Paces, rounds: Rounds) -> float:
    """Seconds that a round takes the slowest worker."""
    return max(rounds[worker].samples / pace.samples_per_s for worker, pace in paces.items())


def _speed_share(worker: int, paces: Paces) -> float:
    """This worker's part of the speed of all; 0 if it is not known."""
    together = sum(pace.samples_per_s for pace in paces.values())
    return paces[worker].samples_per_s / together if together else 0.0
