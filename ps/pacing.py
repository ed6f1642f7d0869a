"""How much work a worker gets at a time, from how fast each of them is.

A **round** is what a worker does between two pushes: its local steps, of a batch each. A lease is a
number of rounds. Leases follow guided self-scheduling (Polychronopoulos and Kuck 1987, section 4):
a part of what is left, so they are large at first and small when the end is near, where a large one
would keep the others waiting. Here the part is in proportion to the worker's speed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

LEASE_S: Final = 2.0  # of work in a lease: soon measured again, and little is lost with a worker
LEFT_FOR_LATER: Final = 2  # a lease is at most its worker's share of 1 / so much of what is left
ROUND_STEPS: Final = 3  # of the slowest worker in a round: then rounding costs the others little
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


def plan_rounds(paces: Paces, *, weighted: bool, local_steps: int | None) -> dict[int, Round]:
    """Each worker's round.

    Args:
        weighted: batches in proportion to the speeds; otherwise each worker its own.
        local_steps: of every worker; None for as many as let all push at about the same time.
    """
    batches = _weighted_batches(paces) if weighted else {w: p.batch_size for w, p in paces.items()}
    steps = dict.fromkeys(paces, local_steps) if local_steps else _equal_times(paces, batches)
    return {worker: Round(batches[worker], steps[worker] or 1) for worker in paces}


def lease_samples(worker: int, free: int, paces: Paces, rounds: Rounds, *, lockstep: bool) -> int:
    """How many samples this worker is to get now, in whole rounds; there may be fewer.

    Args:
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
    return max(1, int(min(of_what_is_left, LEASE_S / round_s))) * own.samples


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


def _equal_times(paces: Paces, batches: Mapping[int, int]) -> dict[int, int]:
    """As many steps for each as fit into the time of the slowest one's round."""
    if not all(pace.is_known for pace in paces.values()):
        return dict.fromkeys(paces, 1)
    step_s = {worker: batches[worker] / pace.samples_per_s for worker, pace in paces.items()}
    round_s = ROUND_STEPS * max(step_s.values())
    return {
        worker: min(MAX_AUTO_STEPS, int(round_s / seconds + ROUNDING))
        for worker, seconds in step_s.items()
    }


def _slowest_s(paces: Paces, rounds: Rounds) -> float:
    """Seconds that a round takes the slowest worker."""
    return max(rounds[worker].samples / pace.samples_per_s for worker, pace in paces.items())


def _speed_share(worker: int, paces: Paces) -> float:
    """This worker's part of the speed of all; 0 if it is not known."""
    together = sum(pace.samples_per_s for pace in paces.values())
    return paces[worker].samples_per_s / together if together else 0.0
