"""What all mixtures have in common: scikit-learn's interface over EM."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import check_random_state

from leash.worker.em.family import Family, Floats, Parameters, Samples, log_sum

STARTS: Final = ("kmeans", "k-means++", "random", "random_from_data")


class Mixture(DensityMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """A mixture density. Samples are rows; all that is public is as in scikit-learn."""

    weights_: Floats
    means_: Floats
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]
    n_features_in_: int

    def __init__(
        self, n_components: int, tol: float, max_iter: int, n_init: int, init_params: str,
        random_state: Any,
    ) -> None:  # fmt: skip
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state

    # What a kind of mixture adds.

    @abstractmethod
    def family(self, dimensions: int) -> Family:
        """Raises ValueError for a setting that cannot be."""

    @abstractmethod
    def with_given(self, parameters: Parameters, centre: Floats) -> Parameters:
        """The start, with what the user gave instead; ValueError if that cannot be."""

    @abstractmethod
    def draw(self, component: int, count: int, rng: np.random.RandomState) -> Floats:
        """Samples of one component."""

    def centre(self, samples: Samples) -> Floats:
        """What is taken off all samples while EM goes on."""
        return np.zeros(samples.shape[1])

    def check_samples(self, samples: Samples) -> Samples:
        """Raises ValueError for what is no table of finite numbers."""
        samples = np.asarray(samples)
        if samples.ndim != 2 or 0 in samples.shape:
            raise ValueError(f"expected samples as rows of a table, got shape {samples.shape}")
        if samples.dtype.kind not in "buif":
            raise ValueError(f"expected samples of numbers, got {samples.dtype}")
        if samples.dtype.kind == "f" and not np.isfinite(samples).all():
            raise ValueError("expected finite samples, got a NaN or an infinity")
        return samples

    def take(self, parameters: Parameters, centre: Floats) -> None:
        """Sets what `fit` leaves behind."""
        self._family = self.family(parameters.means.shape[1])
        self._parameters, self._centre = parameters, centre
        self.n_features_in_ = parameters.means.shape[1]
        self.weights_ = parameters.weights
        self.means_ = parameters.means + centre

    # Fitting.

    def check_settings(self, samples: int) -> None:
        """Raises ValueError for a setting that cannot be, or too few samples."""
        for name, least in (("n_components", 1), ("max_iter", 1), ("n_init", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")
        if not 0 <= self.tol < np.inf:
            raise ValueError(f"tol: expected a number from 0, got {self.tol}")
        if self.init_params not in STARTS:
            raise ValueError(
                f"init_params: expected one of {', '.join(STARTS)}, got {self.init_params!r}"
            )
        if samples < self.n_components:
            raise ValueError(
                f"n_components={self.n_components}: expected at least as many samples, "
                f"got {samples}"
            )

    def fit(self, X: Samples, y: Any = None) -> "Mixture":  # noqa: N803
        """Fits the mixture to samples (n, d).

        Raises:
            ValueError: a setting that cannot be, fewer samples than components, samples that are
                not finite, or a component that has collapsed.
        """
        from leash.worker.em.fitting import Fit, fit_together

        fit_together([Fit(self, X)])
        if not self.converged_:
            warnings.warn(
                f"EM has not converged in {self.n_iter_} iterations: raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def fit_predict(self, X: Samples, y: Any = None) -> npt.NDArray[np.int64]:  # noqa: N803
        """Fits, and tells for each sample its most probable component."""
        return self.fit(X, y).predict(X)

    def seed_of_start(self, start: int) -> Any:
        """Of the start with this number, from 0: alike in every process, if there is a seed.

        The first is what scikit-learn would use.
        """
        if start == 0 or not isinstance(self.random_state, (int, np.integer)):
            return self.random_state
        return int(np.random.SeedSequence([int(self.random_state), start]).generate_state(1)[0])

    def responsibilities(self, samples: Samples, start: int) -> Floats:
        """How the samples are divided among the components at first: (n, k)."""
        rng = check_random_state(self.seed_of_start(start))
        n, k = len(samples), self.n_components
        if self.init_params == "random":
            drawn: Floats = rng.uniform(size=(n, k))
            drawn /= drawn.sum(1, keepdims=True)
            return drawn
        shares = np.zeros((n, k))
        if self.init_params == "kmeans":
            with warnings.catch_warnings():
                # Fewer distinct samples than clusters: some are empty, which EM bears.
                warnings.simplefilter("ignore", ConvergenceWarning)
                found = KMeans(k, n_init=1, random_state=rng).fit(samples)
            shares[np.arange(n), found.labels_] = 1
        elif self.init_params == "random_from_data":
            shares[rng.choice(n, k, replace=False), np.arange(k)] = 1
        else:
            _, positions = kmeans_plusplus(samples, k, random_state=rng)
            shares[positions, np.arange(k)] = 1
        return shares

    # What a fitted mixture tells.

    def log_joint(self, samples: Samples) -> Floats:
        """ln p(x, component), (n, k)."""
        if not hasattr(self, "_parameters"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        samples = self.check_samples(samples)
        if samples.shape[1] != self.n_features_in_:
            raise ValueError(
                f"expected samples of {self.n_features_in_} features, got {samples.shape[1]}"
            )
        centred = samples - self._centre if self._centre.any() else samples
        return self._family.log_joint_of(self._parameters, self._family.prepare(centred))

    def score_samples(self, X: Samples) -> Floats:  # noqa: N803
        """The log-likelihood of each sample."""
        return log_sum(self.log_joint(X))

    def score(self, X: Samples, y: Any = None) -> float:  # noqa: N803
        """The mean log-likelihood of a sample."""
        return float(self.score_samples(X).mean())

    def predict(self, X: Samples) -> npt.NDArray[np.int64]:  # noqa: N803
        """The most probable component of each sample."""
        best: npt.NDArray[np.int64] = self.log_joint(X).argmax(1)
        return best

    def predict_proba(self, X: Samples) -> Floats:  # noqa: N803
        """The probability of each component for each sample, (n, k)."""
        joint = self.log_joint(X)
        shares: Floats = np.exp(joint - log_sum(joint)[:, None])
        return shares

    def sample(self, n_samples: int = 1) -> tuple[Floats, npt.NDArray[np.int64]]:
        """New samples, and the component of each."""
        if n_samples < 1:
            raise ValueError(f"n_samples: expected a number from 1, got {n_samples}")
        if not hasattr(self, "_parameters"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        rng = check_random_state(self.random_state)
        counts = rng.multinomial(n_samples, self.weights_ / self.weights_.sum())
        drawn = [self.draw(k, count, rng) for k, count in enumerate(counts)]
        return np.concatenate(drawn), np.repeat(np.arange(self.n_components), counts)

    def bic(self, X: Samples) -> float:  # noqa: N803
        """The Bayesian information criterion on these samples: the lower the better."""
        free = self._family.free_parameters()
        return float(-2 * self.score_samples(X).sum() + free * np.log(len(X)))

    def aic(self, X: Samples) -> float:  # noqa: N803
        """Akaike's information criterion on these samples: the lower the better."""
        return float(-2 * self.score_samples(X).sum() + 2 * self._family.free_parameters())
