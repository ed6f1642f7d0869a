"""The base of all mixtures: scikit-learn's interface over EM."""

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
    """A mixture density whose interface is scikit-learn's: samples are rows."""

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
        """Makes the formulas of this kind of mixture.

        Args:
            dimensions: how many features a sample has.

        Returns:
            The family of these mixtures.

        Raises:
            ValueError: a setting cannot be.
        """

    @abstractmethod
    def with_given(self, parameters: Parameters, centre: Floats) -> Parameters:
        """Puts what the user gave for the start in the place of what a start led to.

        Args:
            parameters: what `init_params` has led to.
            centre: (d,), what was subtracted from all samples.

        Returns:
            The parameters that EM begins with.

        Raises:
            ValueError: what the user gave cannot be.
        """

    @abstractmethod
    def draw(self, component: int, count: int, rng: np.random.RandomState) -> Floats:
        """Draws samples of one component of a fitted mixture.

        Args:
            component: which one, from 0.
            count: how many samples.
            rng: where the randomness comes from.

        Returns:
            (count, d).
        """

    def centre(self, samples: Samples) -> Floats:
        """Chooses what is subtracted from all samples while EM goes on.

        Args:
            samples: (n, d).

        Returns:
            (d,); zeros, unless a kind of mixture knows better.
        """
        return np.zeros(samples.shape[1])

    def check_samples(self, samples: Samples) -> Samples:
        """Refuses samples that are no table of finite numbers.

        Args:
            samples: (n, d), of any kind of number.

        Returns:
            The samples as an array.

        Raises:
            ValueError: they have another shape or dtype, or a number is not finite.
        """
        samples = np.asarray(samples)
        if samples.ndim != 2 or 0 in samples.shape:
            raise ValueError(f"expected samples as rows of a table, got shape {samples.shape}")
        if samples.dtype.kind not in "buif":
            raise ValueError(f"expected samples of numbers, got {samples.dtype}")
        if samples.dtype.kind == "f" and not np.isfinite(samples).all():
            raise ValueError("expected finite samples, got a NaN or an infinity")
        return samples

    def take(self, parameters: Parameters, centre: Floats) -> None:
        """Sets the attributes that a fitted mixture has.

        Args:
            parameters: of the best start.
            centre: (d,), what was subtracted from all samples.
        """
        self._family = self.family(parameters.means.shape[1])
        self._parameters, self._centre = parameters, centre
        self.n_features_in_ = parameters.means.shape[1]
        self.weights_ = parameters.weights
        self.means_ = parameters.means + centre

    # Fitting.

    def check_settings(self, samples: int) -> None:
        """Refuses settings that cannot be, or that ask for more components than samples.

        Args:
            samples: how many there are.

        Raises:
            ValueError: the text names the setting, what was expected and what came.
        """
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
        """Fits the mixture to samples by EM; warns if that has not converged.

        Args:
            X: (n, d), the samples.
            y: ignored; scikit-learn's interface has it.

        Returns:
            This mixture.

        Raises:
            ValueError: a setting cannot be, there are fewer samples than components, a sample is
                not finite, or a component has collapsed.
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
        """Fits the mixture, and tells for each sample its most probable component.

        Args:
            X: (n, d), the samples.
            y: ignored; scikit-learn's interface has it.

        Returns:
            (n,), components from 0.

        Raises:
            ValueError: what `fit` raises.
        """
        return self.fit(X, y).predict(X)

    def seed_of_start(self, start: int) -> Any:
        """Derives the seed of one of the `n_init` starts: alike in every process, if there is one.

        Args:
            start: its number, from 0.

        Returns:
            For the first start `random_state` itself, as scikit-learn would use it.
        """
        if start == 0 or not isinstance(self.random_state, (int, np.integer)):
            return self.random_state
        return int(np.random.SeedSequence([int(self.random_state), start]).generate_state(1)[0])

    def responsibilities(self, samples: Samples, start: int) -> Floats:
        """Divides the samples among the components at first, as `init_params` says.

        Args:
            samples: (n, d).
            start: which of the `n_init` starts, from 0.

        Returns:
            (n, k), the share of each component in each sample; of sum 1 over the components, or 0
            for samples that the start leaves out.
        """
        rng = check_random_state(self.seed_of_start(start))
        n, k = len(samples), self.n_components
        if self.init_params == "random":
            drawn: Floats = rng.uniform(size=(n, k))
            drawn /= drawn.sum(1, keepdims=True)
            return drawn
        shares = np.zeros((n, k))
        if self.init_params == "kmeans":
            with warnings.catch_warnings():
                # With fewer distinct samples than clusters some clusters are empty; EM bears that.
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
        """Computes ln p(x, component).

        Args:
            samples: (n, d).

        Returns:
            (n, k).

        Raises:
            NotFittedError: `fit` was not called yet.
            ValueError: the samples have another number of features, or are not finite.
        """
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
        """Computes the log-likelihood of each sample.

        Args:
            X: (n, d), the samples.

        Returns:
            (n,), natural logarithms.
        """
        return log_sum(self.log_joint(X))

    def score(self, X: Samples, y: Any = None) -> float:  # noqa: N803
        """Computes the mean log-likelihood of a sample.

        Args:
            X: (n, d), the samples.
            y: ignored; scikit-learn's interface has it.

        Returns:
            A natural logarithm.
        """
        return float(self.score_samples(X).mean())

    def predict(self, X: Samples) -> npt.NDArray[np.int64]:  # noqa: N803
        """Tells the most probable component of each sample.

        Args:
            X: (n, d), the samples.

        Returns:
            (n,), components from 0.
        """
        best: npt.NDArray[np.int64] = self.log_joint(X).argmax(1)
        return best

    def predict_proba(self, X: Samples) -> Floats:  # noqa: N803
        """Computes the probability of each component for each sample.

        Args:
            X: (n, d), the samples.

        Returns:
            (n, k), of sum 1 over the components.
        """
        joint = self.log_joint(X)
        shares: Floats = np.exp(joint - log_sum(joint)[:, None])
        return shares

    def sample(self, n_samples: int = 1) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Draws new samples.

        Args:
            n_samples: how many, from 1.

        Returns:
            The samples (n_samples, d), and the component of each (n_samples,).

        Raises:
            NotFittedError: `fit` was not called yet.
            ValueError: `n_samples` is less than 1.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples: expected a number from 1, got {n_samples}")
        if not hasattr(self, "_parameters"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        rng = check_random_state(self.random_state)
        counts = rng.multinomial(n_samples, self.weights_ / self.weights_.sum())
        drawn = [self.draw(k, count, rng) for k, count in enumerate(counts)]
        return np.concatenate(drawn), np.repeat(np.arange(self.n_components), counts)

    def bic(self, X: Samples) -> float:  # noqa: N803
        """Computes the Bayesian information criterion (Schwarz 1978): the lower the better.

        Args:
            X: (n, d), the samples.

        Returns:
            -2 ln L + p ln n, with p free parameters.
        """
        free = self._family.free_parameters()
        return float(-2 * self.score_samples(X).sum() + free * np.log(len(X)))

    def aic(self, X: Samples) -> float:  # noqa: N803
        """Computes Akaike's information criterion (1974): the lower the better.

        Args:
            X: (n, d), the samples.

        Returns:
            -2 ln L + 2 p, with p free parameters.
        """
        return float(-2 * self.score_samples(X).sum() + 2 * self._family.free_parameters())
