"""Mixtures of independent Bernoulli variables, such as pixels that are ink or paper.

C. Bishop, Pattern Recognition and Machine Learning, 2006, section 9.3.3, equations 9.56 to 9.60.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from leash.worker.em.family import TINY_COUNT, Family, Floats, Parameters
from leash.worker.em.mixture import Mixture

# How close a probability may come to 0 or 1. Without smoothing, a variable that never varied would
# otherwise make every sample in which it does impossible.
FURTHEST: Final = 1e-10


@dataclass(frozen=True, eq=False)
class BernoulliParameters(Parameters):
    """Bernoulli variables; the means are the probabilities of a one.

    Attributes:
        log_odds: (d, k), ln of the odds of a one.
        log_zero: (k,), ln of weight × the probability of a sample of zeros.
    """

    log_odds: Floats
    log_zero: Floats


class BernoulliFamily(Family):
    """Bernoulli variables: ln p(x) is linear in x, so first moments are all that is needed."""

    def __init__(self, components: int, dimensions: int, smoothing: float) -> None:
        super().__init__(components, dimensions)
        self.smoothing: Final = smoothing

    @property
    def moments(self) -> int:
        return self.components * self.dimensions

    def prepare(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return samples  # bytes stay bytes: a block at a time becomes float64

    def log_joint(self, parameters: Parameters, prepared: Floats) -> Floats:
        assert isinstance(parameters, BernoulliParameters)
        joint: Floats = prepared @ parameters.log_odds
        joint += parameters.log_zero
        return joint

    def block_moments(
        self, parameters: Parameters, prepared: Floats, responsibilities: Floats
    ) -> Floats:
        return self.absolute_moments(prepared, responsibilities)

    def absolute_moments(self, prepared: Floats, responsibilities: Floats) -> Floats:
        moments: Floats = responsibilities.T @ prepared
        return moments.ravel()

    def to_absolute(self, statistics: Floats, about: Parameters) -> Floats:
        return statistics

    def maximisation(self, statistics: Floats, about: Parameters | None) -> Parameters:
        counts = self.counts(statistics) + TINY_COUNT
        ones = self.own(statistics).reshape(self.components, -1) + self.smoothing
        if about is not None:
            # A component that has lost all of its samples keeps its means.
            ones = ones + TINY_COUNT * about.means
        means = ones / (counts + 2 * self.smoothing)[:, None]
        return self.parameters(self.weights(statistics), means)

    def parameters(self, weights: Floats, means: Floats) -> BernoulliParameters:
        """Derives all that the E-step wants from weights (k,) and means (k, d).

        No mean stays closer to 0 or 1 than 1e-10.
        """
        means = np.clip(means, FURTHEST, 1 - FURTHEST)
        log_odds = np.ascontiguousarray((np.log(means) - np.log1p(-means)).T)
        log_zero = np.log(weights) + np.log1p(-means).sum(1)
        return BernoulliParameters(weights, means, log_odds, log_zero)

    def free_parameters(self) -> int:
        return self.components * self.dimensions + self.components - 1


class BernoulliMixture(Mixture):
    """A mixture of Bernoulli variables for samples of zeros and ones, fitted by EM.

    It has the interface of scikit-learn's mixtures, and fits in one process; ``leash em`` fits the
    same mixtures over the workers of a run. The formulas are those of C. Bishop, Pattern
    Recognition and Machine Learning, 2006, section 9.3.3, equations 9.56 to 9.60. Below, k is the
    number of components and d that of variables.

    Examples:
        >>> import numpy as np
        >>> from leash import BernoulliMixture
        >>> samples = np.repeat([[0, 0, 1], [1, 1, 0]], 50, axis=0)
        >>> mixture = BernoulliMixture(2, random_state=1).fit(samples)
        >>> mixture.weights_.round(1).tolist()
        [0.5, 0.5]

    Attributes:
        weights_: (k,), how frequent each component is; of sum 1.
        means_: (k, d), the probabilities of a one.
        converged_: whether EM ended because it had converged.
        n_iter_: how many iterations the best start took.
        lower_bound_: the mean log-likelihood of a sample at the end.
        lower_bounds_: the same after each iteration.
        n_features_in_: d, as `fit` saw it.
    """

    def __init__(
        self, n_components: int = 1, *, tol: float = 1e-3, smoothing: float = 1.0,
        max_iter: int = 100, n_init: int = 1, init_params: str = "kmeans",
        weights_init: Any = None, means_init: Any = None, random_state: Any = None,
    ) -> None:  # fmt: skip
        """Keeps the settings; `fit` checks them.

        Args:
            n_components: k, how many components.
            tol: EM ends when the mean log-likelihood of a sample changes by less.
            smoothing: so many ones, and as many zeros, are added to what each component has seen of
                each variable (a Beta prior); 0 is maximum likelihood.
            max_iter: after so many iterations EM ends in any case.
            n_init: how many starts to try; the one that ends with the highest likelihood counts.
            init_params: divides the samples at first, as in GaussianMixture.
            weights_init: (k,), the weights to start with, instead of those of `init_params`.
            means_init: (k, d), the probabilities to start with.
            random_state: a seed, a numpy RandomState, or None for another start every time.
        """
        super().__init__(n_components, tol, max_iter, n_init, init_params, random_state)
        self.smoothing = smoothing
        self.weights_init = weights_init
        self.means_init = means_init

    def family(self, dimensions: int) -> BernoulliFamily:
        """Makes the formulas of Bernoulli mixtures.

        Args:
            dimensions: how many variables a sample has.

        Returns:
            The family of these mixtures.

        Raises:
            ValueError: `smoothing` cannot be.
        """
        if not 0 <= self.smoothing < np.inf:
            raise ValueError(f"smoothing: expected a number from 0, got {self.smoothing}")
        return BernoulliFamily(self.n_components, dimensions, self.smoothing)

    def check_samples(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Refuses samples that are no table of zeros and ones.

        Args:
            samples: (n, d), of any kind of number.

        Returns:
            The samples as an array.

        Raises:
            ValueError: they have another shape, or a number is neither 0 nor 1.
        """
        samples = super().check_samples(samples)
        if not ((samples == 0) | (samples == 1)).all():
            raise ValueError("expected samples of zeros and ones; take pixels > 0.5, for example")
        return samples

    def with_given(self, parameters: Parameters, centre: Floats) -> Parameters:
        """Puts `weights_init` and `means_init` in the place of a start's own.

        Args:
            parameters: what `init_params` has led to.
            centre: (d,), zeros.

        Returns:
            The parameters that EM begins with.

        Raises:
            ValueError: what the user gave has another shape, or is no probability.
        """
        from leash.worker.em.gaussian import given

        k, d = parameters.means.shape
        weights = given("weights_init", self.weights_init, (k,), parameters.weights)
        means = given("means_init", self.means_init, (k, d), parameters.means)
        if means.min() < 0 or means.max() > 1:
            raise ValueError("means_init: expected probabilities from 0 to 1")
        return self.family(d).parameters(weights, means)

    def draw(self, component: int, count: int, rng: np.random.RandomState) -> Floats:
        """Draws samples of one component of a fitted mixture.

        Args:
            component: which one, from 0.
            count: how many samples.
            rng: where the randomness comes from.

        Returns:
            (count, d), of zeros and ones.
        """
        ones = rng.random_sample((count, self.n_features_in_)) < self.means_[component]
        drawn: Floats = ones.astype(np.float64)
        return drawn
