"""The formulas of a kind of mixture, whoever holds the data.

A family turns samples and parameters into sufficient statistics (the E-step) and those into
parameters (the M-step). Statistics are one flat vector of float64, and the vectors of disjoint
samples add up: so an M-step never needs more than a sum over blocks, or over processes::

    log-likelihood | samples | counts (k) | the family's own moments
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

BLOCK_ROWS: Final = 512  # the intermediate values of so many samples stay in a second-level cache
HEADER: Final = 2  # a vector of statistics begins with the log-likelihood and the samples
# Is added to each count, as in scikit-learn, so that a component without samples stays finite.
TINY_COUNT: Final = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Parameters:
    """The parameters that every kind of mixture has; subclasses add those of their family.

    Attributes:
        weights: (k,), of sum 1.
        means: (k, d).
    """

    weights: Floats
    means: Floats


class Family(ABC):
    """The formulas of mixtures with k components in d dimensions; it holds no data.

    Attributes:
        components: k.
        dimensions: d.
    """

    def __init__(self, components: int, dimensions: int) -> None:
        self.components: Final = components
        self.dimensions: Final = dimensions

    @property
    @abstractmethod
    def moments(self) -> int:
        """How many numbers the family's own moments are."""

    @property
    def size(self) -> int:
        """The length of a vector of statistics."""
        return HEADER + self.components + self.moments

    @abstractmethod
    def prepare(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Brings samples (n, d) into the form that the E-step takes, each row by itself."""

    @abstractmethod
    def log_joint(self, parameters: Parameters, prepared: Floats) -> Floats:
        """Computes ln p(x, component) for each sample of a block and each component: (n, k)."""

    @abstractmethod
    def block_moments(
        self, parameters: Parameters, prepared: Floats, responsibilities: Floats
    ) -> Floats:
        """Computes the moments of a block; `log_joint` of the same block comes right before."""

    @abstractmethod
    def absolute_moments(self, prepared: Floats, responsibilities: Floats) -> Floats:
        """Computes a block's moments about 0, where there are no parameters to take them about.

        A start has none, and neither has the average of online EM.
        """

    @abstractmethod
    def to_absolute(self, statistics: Floats, about: Parameters) -> Floats:
        """Converts statistics of an E-step into those that `absolute_moments` would have given.

        Args:
            statistics: (size,).
            about: the parameters of the E-step.

        Returns:
            (size,).
        """

    @abstractmethod
    def maximisation(self, statistics: Floats, about: Parameters | None) -> Parameters:
        """Takes the M-step: the parameters of highest likelihood for these statistics.

        Args:
            statistics: (size,), of all samples.
            about: the parameters of the E-step; None if the moments are absolute.

        Returns:
            The new parameters.

        Raises:
            ValueError: a component has no proper distribution.
        """

    @abstractmethod
    def free_parameters(self) -> int:
        """How many parameters can vary independently, as AIC and BIC count them."""

    # What is the same for all.

    def expectation(self, parameters: Parameters, prepared: npt.NDArray[Any]) -> Floats:
        """Takes the E-step, block by block, with all probabilities as logarithms.

        Args:
            parameters: of the mixture.
            prepared: samples, as `prepare` gives them.

        Returns:
            (size,), the statistics of these samples.
        """
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
        """Computes the statistics of a start, with absolute moments.

        Args:
            prepared: samples, as `prepare` gives them.
            responsibilities: (n, k), the share of each component in each sample.

        Returns:
            (size,); its log-likelihood is 0.
        """
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
        """How many samples belong to each component: a view, (k,)."""
        return statistics[HEADER : HEADER + self.components]

    def own(self, statistics: Floats) -> Floats:
        """The family's own moments: a view, (moments,)."""
        return statistics[HEADER + self.components :]

    def weights(self, statistics: Floats) -> Floats:
        """The weights of the components by these statistics: (k,), of sum 1."""
        counts = self.counts(statistics) + TINY_COUNT
        weights: Floats = counts / counts.sum()
        return weights


def log_sum(joint: Floats) -> Floats:
    """Computes ln Σ exp over the components, without overflow: (n, k) ▸ (n,)."""
    largest = joint.max(1)
    summed: Floats = largest + np.log(np.exp(joint - largest[:, None]).sum(1))
    return summed


Samples: TypeAlias = npt.NDArray[Any]  # (n, d), of any kind of number
