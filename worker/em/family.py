"""What EM needs to know of a kind of mixture, apart from who holds the data.

A family turns samples and parameters into sufficient statistics (the E-step) and those into
parameters (the M-step). Statistics are one flat vector of float64, and the vectors of disjoint
samples add up: so a sum over blocks, or over processes, is all that an M-step ever needs::

    log-likelihood | samples | counts (k) | the family's own moments
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

BLOCK_ROWS: Final = 512  # samples whose intermediate values stay in a second-level cache
HEADER: Final = 2  # log-likelihood, samples
# Keeps a component that no sample belongs to finite, as in scikit-learn.
TINY_COUNT: Final = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Parameters:
    """Of any mixture: what its own family adds is in the subclasses."""

    weights: Floats  # (k,), of sum 1
    means: Floats  # (k, d)


class Family(ABC):
    """A kind of mixture with k components in d dimensions. Holds no data and no parameters."""

    def __init__(self, components: int, dimensions: int) -> None:
        self.components: Final = components
        self.dimensions: Final = dimensions

    @property
    @abstractmethod
    def moments(self) -> int:
        """How many numbers its own moments are."""

    @property
    def size(self) -> int:
        """The length of a vector of statistics."""
        return HEADER + self.components + self.moments

    @abstractmethod
    def prepare(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Samples (n, d) in the form in which the E-step wants them; row by row the same."""

    @abstractmethod
    def log_joint(self, parameters: Parameters, prepared: Floats) -> Floats:
        """ln p(x, component) for each sample of a block and each component: (n, k)."""

    @abstractmethod
    def block_moments(
        self, parameters: Parameters, prepared: Floats, responsibilities: Floats
    ) -> Floats:
        """The moments of a block, after `log_joint` of the same block."""

    @abstractmethod
    def absolute_moments(self, prepared: Floats, responsibilities: Floats) -> Floats:
        """The same without parameters to take them about: those of a start, or of an average."""

    @abstractmethod
    def to_absolute(self, statistics: Floats, about: Parameters) -> Floats:
        """Statistics of an E-step as `absolute_moments` would have given them."""

    @abstractmethod
    def maximisation(self, statistics: Floats, about: Parameters | None) -> Parameters:
        """The M-step.

        Args:
            about: the parameters of the E-step; None if the moments are absolute.

        Raises:
            ValueError: a component has no proper distribution.
        """

    @abstractmethod
    def free_parameters(self) -> int:
        """For AIC and BIC."""

    # What is the same for all.

    def expectation(self, parameters: Parameters, prepared: npt.NDArray[Any]) -> Floats:
        """The statistics of these samples, block by block, with everything in log space."""
        total = np.zeros(self.size)
        for begin in range(0, len(prepared), BLOCK_ROWS):
            block = np.asarray(prepared[begin : begin + BLOCK_ROWS], np.float64)
            joint = self.log_joint(parameters, block)
            evidence = log_sum(joint)
            np.exp(np.subtract(joint, evidence[:, None], out=joint), out=joint)
            total[0] += evidence.sum()
            total[1] += len(block)
            total[HEADER : HEADER + self.components] += joint.sum(0)
            total[HEADER + self.components :] += self.block_moments(parameters, block, joint)
        return total

    def start(self, prepared: npt.NDArray[Any], responsibilities: Floats) -> Floats:
        """Absolute statistics of samples that somebody has divided among the components."""
        total = np.zeros(self.size)
        for begin in range(0, len(prepared), BLOCK_ROWS):
            rows = slice(begin, begin + BLOCK_ROWS)
            block, share = np.asarray(prepared[rows], np.float64), responsibilities[rows]
            total[1] += len(block)
            total[HEADER : HEADER + self.components] += share.sum(0)
            total[HEADER + self.components :] += self.absolute_moments(block, share)
        return total

    def log_joint_of(self, parameters: Parameters, prepared: npt.NDArray[Any]) -> Floats:
        """`log_joint` of any number of samples."""
        blocks = [
            self.log_joint(parameters, np.asarray(prepared[i : i + BLOCK_ROWS], np.float64))
            for i in range(0, len(prepared), BLOCK_ROWS)
        ]
        return np.concatenate(blocks)

    def counts(self, statistics: Floats) -> Floats:
        """How many samples belong to each component; a view."""
        return statistics[HEADER : HEADER + self.components]

    def own(self, statistics: Floats) -> Floats:
        """The family's own moments; a view."""
        return statistics[HEADER + self.components :]

    def weights(self, statistics: Floats) -> Floats:
        counts = self.counts(statistics) + TINY_COUNT
        weights: Floats = counts / counts.sum()
        return weights


def log_sum(joint: Floats) -> Floats:
    """ln Σ exp over the components, without overflow: (n, k) ▸ (n,)."""
    largest = joint.max(1)
    summed: Floats = largest + np.log(np.exp(joint - largest[:, None]).sum(1))
    return summed


Samples: TypeAlias = npt.NDArray[Any]  # (n, d), of any kind of number
