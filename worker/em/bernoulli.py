"""Mixtures of independent Bernoulli variables, such as pixels that are ink or paper.

C. Bishop, Pattern Recognition and Machine Learning, 2006, section 9.3.3.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from leash.worker.em.family import TINY_COUNT, Family, Floats, Parameters
from leash.worker.em.mixture import Mixture

# Without smoothing, a variable that never varies would make anything else impossible.
FURTHEST: Final = 1e-10


@dataclass(frozen=True, eq=False)
class BernoulliParameters(Parameters):
    """The means are the probabilities of a one."""

    log_odds: Floats  # (d, k)
    log_zero: Floats  # (k,): ln of weight × the probability of a sample of zeros


class BernoulliFamily(Family):
    """The log-probability is linear in x, and its moments are those of first order."""

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
            # A component that lost all of its samples stays what it was.
            ones = ones + TINY_COUNT * about.means
        means = ones / (counts + 2 * self.smoothing)[:, None]
        return self.parameters(self.weights(statistics), means)

    def parameters(self, weights: Floats, means: Floats) -> BernoulliParameters:
        means = np.clip(means, FURTHEST, 1 - FURTHEST)
        log_odds = np.ascontiguousarray((np.log(means) - np.log1p(-means)).T)
        log_zero = np.log(weights) + np.log1p(-means).sum(1)
        return BernoulliParameters(weights, means, log_odds, log_zero)

    def free_parameters(self) -> int:
        return self.components * self.dimensions + self.components - 1


class BernoulliMixture(Mixture):
    """A mixture of Bernoulli variables for samples of zeros and ones, fitted by EM.

    Args:
        smoothing: so many ones, and as many zeros, are added to what each component has seen of
            each variable (a Beta prior); 0 is maximum likelihood.
        init_params: who divides the samples at first, as in GaussianMixture.
        weights_init, means_init: (k,), (k, d): the start itself.

    After `fit`: weights_, means_ (probabilities of a one), converged_, n_iter_, lower_bound_,
    lower_bounds_.
    """

    def __init__(
        self, n_components: int = 1, *, tol: float = 1e-3, smoothing: float = 1.0,
        max_iter: int = 100, n_init: int = 1, init_params: str = "kmeans",
        weights_init: Any = None, means_init: Any = None, random_state: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(n_components, tol, max_iter, n_init, init_params, random_state)
        self.smoothing = smoothing
        self.weights_init = weights_init
        self.means_init = means_init

    def family(self, dimensions: int) -> BernoulliFamily:
        if not 0 <= self.smoothing < np.inf:
            raise ValueError(f"smoothing: expected a number from 0, got {self.smoothing}")
        return BernoulliFamily(self.n_components, dimensions, self.smoothing)

    def check_samples(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        samples = super().check_samples(samples)
        if not ((samples == 0) | (samples == 1)).all():
            raise ValueError("expected samples of zeros and ones; take pixels > 0.5, for example")
        return samples

    def with_given(self, parameters: Parameters, centre: Floats) -> Parameters:
        from leash.worker.em.gaussian import given

        k, d = parameters.means.shape
        weights = given("weights_init", self.weights_init, (k,), parameters.weights)
        means = given("means_init", self.means_init, (k, d), parameters.means)
        if means.min() < 0 or means.max() > 1:
            raise ValueError("means_init: expected probabilities from 0 to 1")
        return self.family(d).parameters(weights, means)

    def draw(self, component: int, count: int, rng: np.random.RandomState) -> Floats:
        ones = rng.random_sample((count, self.n_features_in_)) < self.means_[component]
        drawn: Floats = ones.astype(np.float64)
        return drawn
