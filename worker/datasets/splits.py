"""Which worker trains on which samples, in which order: functions of the seed and nothing else."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from leash.ps.errors import UsageError
from leash.worker.datasets.base import Positions

# The first word of each kind of seed: without it numpy would take (seed) for the same as (seed, 0).
_SHARES: Final = 1
_EPOCH_ORDER: Final = 2
_PERMUTATION: Final = 3


def shares(n: int, weights: Sequence[float], seed: int) -> list[Positions]:
    """Cuts one permutation of ``n`` positions into shares, in proportion to weights.

    Every position is in exactly one share. Equal weights give sizes that differ by at most one. A
    share of a single position gets a second one from the largest, if that has more than two:
    nobody can make a batch of one that batch normalization takes.

    Args:
        n: how many samples the training split has.
        weights: one for each share, above 0.
        seed: of the permutation.

    Returns:
        A share for each weight.

    Raises:
        UsageError: there are no weights, or one is not a positive number.
    """
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"shares of the samples: expected positive numbers, got {list(weights)}")
    order = np.random.default_rng(np.random.SeedSequence([_SHARES, seed])).permutation(n)
    # Fractions: a sum of floats may fall short of a whole number, and move a cut.
    ends = list(accumulate(Fraction(weight) for weight in weights))
    cuts = [0, *(int(n * end / ends[-1]) for end in ends[:-1]), n]
    sizes = [end - start for start, end in pairwise(cuts)]
    while 1 in sizes and max(sizes) > 2:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(1)] += 1
    return np.split(order, list(accumulate(sizes))[:-1])


def epoch_order(share: Positions, seed: int, rank: int, epoch: int) -> Positions:
    """Orders the positions of a share as the worker ``rank`` visits them in ``epoch``."""
    entropy = np.random.SeedSequence([_EPOCH_ORDER, seed, rank, epoch])
    return np.random.default_rng(entropy).permutation(share)


@lru_cache(maxsize=2)  # a worker may be given back what is left of the epoch before
def permutation(n: int, seed: int, epoch: int) -> Positions:
    """Orders all ``n`` positions for an epoch; leases are ranges of this order.

    A process that knows these three numbers knows the order, so that only ranges travel.

    Args:
        n: how many samples the training split has.
        seed: of the run.
        epoch: from 1.

    Returns:
        (n,), read-only.
    """
    entropy = np.random.SeedSequence([_PERMUTATION, seed, epoch])
    order = np.random.default_rng(entropy).permutation(n)
    order.flags.writeable = False
    return order
