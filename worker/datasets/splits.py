"""Who trains on which samples, and in which order: functions of the seed and nothing else."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Final

import numpy as np

from leash.ps.errors import UsageError
from leash.worker.datasets.base import Positions

# First words of the seeds. Without them (seed) and (seed, 0) would be the same seed to numpy.
_SHARES: Final = 1
_EPOCH_ORDER: Final = 2
_PERMUTATION: Final = 3


def shares(n: int, weights: Sequence[float], seed: int) -> list[Positions]:
    """Cut one permutation of ``n`` positions in proportion to ``weights``, one share each.

    Every position is in exactly one share. Equal weights give sizes that differ by at most one.

    Raises:
        UsageError: no weights, or one that is not a positive number.
    """
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"shares of the samples: expected positive numbers, got {list(weights)}")
    order = np.random.default_rng(np.random.SeedSequence([_SHARES, seed])).permutation(n)
    # Fractions: a sum of floats may fall short of a whole number, and move a cut.
    ends = list(accumulate(Fraction(weight) for weight in weights))
    cuts = [int(n * end / ends[-1]) for end in ends[:-1]]
    return np.split(order, cuts)


def epoch_order(share: Positions, seed: int, rank: int, epoch: int) -> Positions:
    """The positions of ``share`` in the order in which worker ``rank`` visits them in ``epoch``."""
    entropy = np.random.SeedSequence([_EPOCH_ORDER, seed, rank, epoch])
    return np.random.default_rng(entropy).permutation(share)


@lru_cache(maxsize=2)  # a worker may be given back what is left of the epoch before
def permutation(n: int, seed: int, epoch: int) -> Positions:
    """All of ``n`` positions in the order of ``epoch``: leases are ranges of it. Not to be changed.

    Whoever knows these three numbers knows the order, so only ranges travel.
    """
    entropy = np.random.SeedSequence([_PERMUTATION, seed, epoch])
    order = np.random.default_rng(entropy).permutation(n)
    order.flags.writeable = False
    return order
