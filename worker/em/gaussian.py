"""Mixtures of Gaussians with full or diagonal covariances.

C. Bishop, Pattern Recognition and Machine Learning, 2006, section 9.2.2: the E-step is equation
9.23, the M-step 9.24 to 9.26.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpotrf, dtrtri

from leash.worker.em.family import BLOCK_ROWS, HEADER, TINY_COUNT, Family, Floats, Parameters
from leash.worker.em.mixture import Mixture

LOG_2PI: Final = float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class FullParameters(Parameters):
    """Gaussians; covariance = root @ root.T, and precision = whitening @ whitening.T.

    Attributes:
        root: (k, d, d), lower triangles.
        whitening: (k, d, d), upper triangles: the transposed inverse of root.
        log_peak: (k,), ln of weight × density at the mean.
        projection: (d + 1, k * d); [x, 1] @ projection is the whitened x - mean.
    """

    root: Floats
    whitening: Floats
    log_peak: Floats
    projection: Floats


@dataclass(frozen=True, eq=False)
class DiagonalParameters(Parameters):
    """Gaussians whose variables are independent of each other.

    Attributes:
        variances: (k, d).
        projection: (2 * d + 1, k); [x, x², 1] @ projection is ln of weight × density.
    """

    variances: Floats
    projection: Floats


class FullFamily(Family):
    """Gaussians with full covariances.

    The second moments are those of whitened samples: with y = (x - mean) @ whitening, the M-step
    needs Σ r y yᵀ. Once EM has converged, that is the identity times a count, so nothing cancels;
    and the E-step has computed y already.
    """

    def __init__(self, components: int, dimensions: int, reg_covar: float) -> None:
        super().__init__(components, dimensions)
        self.reg_covar: Final = reg_covar
        self._upper: Final = np.triu_indices(dimensions)  # of a symmetric matrix
        self._memory: Final = np.empty((BLOCK_ROWS, components, dimensions))
        self._whitened = self._memory  # the part of it that `log_joint` has filled last

    @property
    def moments(self) -> int:
        return self.components * (self.dimensions + len(self._upper[0]))

    def prepare(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.column_stack([samples, np.ones(len(samples))])

    def log_joint(self, parameters: Parameters, prepared: Floats) -> Floats:
        assert isinstance(parameters, FullParameters)
        self._whitened = whitened = self._memory[: len(prepared)]
        np.matmul(prepared, parameters.projection, out=whitened.reshape(len(prepared), -1))
        squares: Floats = np.einsum("nkd,nkd->nk", whitened, whitened)
        squares *= -0.5
        squares += parameters.log_peak
        return squares

    def block_moments(
        self, parameters: Parameters, prepared: Floats, responsibilities: Floats
    ) -> Floats:
        self._whitened *= np.sqrt(responsibilities)[:, :, None]
        return self._moments(prepared, responsibilities, self._whitened)

    def absolute_moments(self, prepared: Floats, responsibilities: Floats) -> Floats:
        weighted = prepared[:, None, :-1] * np.sqrt(responsibilities)[:, :, None]
        return self._moments(prepared, responsibilities, weighted)

    def _moments(self, prepared: Floats, responsibilities: Floats, weighted: Floats) -> Floats:
        first = responsibilities.T @ prepared[:, :-1]
        # A matrix times its own transpose: BLAS computes half of it.
        second = [part.T @ part for part in (weighted[:, k] for k in range(self.components))]
        return self._pack(first, np.stack(second))

    def _pack(self, first: Floats, second: Floats) -> Floats:
        return np.concatenate([first.ravel(), second[:, self._upper[0], self._upper[1]].ravel()])

    def _unpack(self, statistics: Floats) -> tuple[Floats, Floats]:
        """First moments (k, d), and second moments (k, d, d)."""
        k, d, own = self.components, self.dimensions, self.own(statistics)
        second = np.zeros((k, d, d))
        rows, columns = self._upper
        second[:, rows, columns] = second[:, columns, rows] = own[k * d :].reshape(k, -1)
        return own[: k * d].reshape(k, d), second

    def to_absolute(self, statistics: Floats, about: Parameters) -> Floats:
        assert isinstance(about, FullParameters)
        first, second = self._unpack(statistics)
        cross = first[:, :, None] * about.means[:, None, :]
        centre = about.means[:, :, None] * about.means[:, None, :]
        absolute = about.root @ second @ about.root.transpose(0, 2, 1)
        absolute += cross + cross.transpose(0, 2, 1)
        absolute -= self.counts(statistics)[:, None, None] * centre
        head = statistics[: HEADER + self.components]
        return np.concatenate([head, self._pack(first, absolute)])

    def maximisation(self, statistics: Floats, about: Parameters | None) -> Parameters:
        counts = self.counts(statistics) + TINY_COUNT
        first, second = self._unpack(statistics)
        second /= counts[:, None, None]
        if about is None:
            means = first / counts[:, None]
            covariances = second - means[:, :, None] * means[:, None, :]
        else:
            assert isinstance(about, FullParameters)
            # A component that has lost all of its samples stays where it was.
            moved = first / counts[:, None] - about.means * (1 - TINY_COUNT / counts)[:, None]
            shift = (moved[:, None, :] @ about.whitening)[:, 0]
            spread = second - shift[:, :, None] * shift[:, None, :]
            means = about.means + moved
            covariances = about.root @ spread @ about.root.transpose(0, 2, 1)
        covariances += self.reg_covar * np.eye(self.dimensions)
        return self.parameters(self.weights(statistics), means, self._roots(covariances))

    def parameters(self, weights: Floats, means: Floats, root: Floats) -> FullParameters:
        """Derives all that the E-step wants.

        Args:
            weights: (k,), of sum 1.
            means: (k, d).
            root: (k, d, d), lower triangles whose root @ root.T are the covariances.

        Returns:
            The parameters of k Gaussians.
        """
        whitening = np.stack([dtrtri(part, lower=1)[0].T for part in root])
        offsets = -(means[:, None, :] @ whitening)  # (k, 1, d)
        projection = np.concatenate([whitening, offsets], axis=1).transpose(1, 0, 2)
        log_peak = (
            np.log(weights)
            + np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum(1)
            - 0.5 * self.dimensions * LOG_2PI
        )
        return FullParameters(
            weights, means, root, whitening, log_peak,
            np.ascontiguousarray(projection).reshape(self.dimensions + 1, -1),
        )  # fmt: skip

    def _roots(self, covariances: npt.NDArray[Any]) -> Floats:
        roots = np.empty_like(covariances)
        for component, covariance in enumerate(covariances):
            roots[component], failed = dpotrf(covariance, lower=1, clean=1)
            if failed:
                raise singular(component, self)
        return roots

    def roots_of_precisions(self, precisions: Floats) -> Floats:
        """Inverts precisions (k, d, d), and factors the covariances: lower triangles (k, d, d)."""
        return self._roots(np.linalg.inv(precisions))

    def free_parameters(self) -> int:
        k, d = self.components, self.dimensions
        return k * d * (d + 1) // 2 + k * d + k - 1


class DiagonalFamily(Family):
    """Gaussians with diagonal covariances: their log-density is linear in [x, x², 1]."""

    def __init__(self, components: int, dimensions: int, reg_covar: float) -> None:
        super().__init__(components, dimensions)
        self.reg_covar: Final = reg_covar

    @property
    def moments(self) -> int:
        return 2 * self.components * self.dimensions

    def prepare(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.column_stack([samples, np.square(samples), np.ones(len(samples))])

    def log_joint(self, parameters: Parameters, prepared: Floats) -> Floats:
        assert isinstance(parameters, DiagonalParameters)
        return prepared @ parameters.projection

    def block_moments(
        self, parameters: Parameters, prepared: Floats, responsibilities: Floats
    ) -> Floats:
        return self.absolute_moments(prepared, responsibilities)

    def absolute_moments(self, prepared: Floats, responsibilities: Floats) -> Floats:
        moments: Floats = responsibilities.T @ prepared[:, :-1]
        return moments.ravel()

    def to_absolute(self, statistics: Floats, about: Parameters) -> Floats:
        return statistics

    def maximisation(self, statistics: Floats, about: Parameters | None) -> Parameters:
        counts = self.counts(statistics) + TINY_COUNT
        averages = self.own(statistics).reshape(self.components, -1) / counts[:, None]
        means, squares = averages[:, : self.dimensions], averages[:, self.dimensions :]
        if about is not None:
            # A component that has lost all of its samples stays where it was.
            lost = TINY_COUNT / counts
            means = means + lost[:, None] * about.means
            squares = squares + lost[:, None] * np.square(about.means)
        variances = squares - np.square(means) + self.reg_covar
        for component in np.flatnonzero((variances <= 0).any(1)):
            raise singular(int(component), self)
        return self.parameters(self.weights(statistics), means, variances)

    def parameters(self, weights: Floats, means: Floats, variances: Floats) -> DiagonalParameters:
        """Derives all that the E-step wants from weights (k,), means and variances (k, d)."""
        constant = np.log(weights) - 0.5 * (
            np.square(means) / variances + np.log(variances) + LOG_2PI
        ).sum(1)
        projection = np.column_stack([means / variances, -0.5 / variances, constant]).T
        return DiagonalParameters(weights, means, variances, np.ascontiguousarray(projection))

    def free_parameters(self) -> int:
        return 2 * self.components * self.dimensions + self.components - 1


def singular(component: int, family: FullFamily | DiagonalFamily) -> ValueError:
    """The error for a component whose covariance has no root, and what to do about it."""
    return ValueError(
        f"component {component + 1} of {family.components}: its covariance is not positive "
        f"definite; it has collapsed onto too few samples. Raise reg_covar (now "
        f"{family.reg_covar:g}), or lower n_components"
    )


class GaussianMixture(Mixture):
    """A mixture of Gaussians, fitted by EM, with the interface and the results of scikit-learn.

    It fits in one process; ``leash em`` fits the same mixtures over the workers of a run. The
    formulas are those of C. Bishop, Pattern Recognition and Machine Learning, 2006, section 9.2.2,
    equations 9.23 to 9.26. Below, k is the number of components and d that of features.

    Examples:
        >>> import numpy as np
        >>> from leash import GaussianMixture
        >>> samples = np.concatenate([np.random.randn(100, 2), 9 + np.random.randn(100, 2)])
        >>> mixture = GaussianMixture(2, random_state=1).fit(samples)
        >>> mixture.weights_.round(1).tolist()
        [0.5, 0.5]

    Attributes:
        weights_: (k,), how frequent each component is; of sum 1.
        means_: (k, d).
        covariances_: (k, d, d); (k, d) if they are diagonal.
        precisions_: the inverses of the covariances, in the same shape.
        precisions_cholesky_: upper triangles whose product with their transposes are the
            precisions; the square roots of diagonal ones.
        converged_: whether EM ended because it had converged.
        n_iter_: how many iterations the best start took.
        lower_bound_: the mean log-likelihood of a sample at the end.
        lower_bounds_: the same after each iteration.
        n_features_in_: d, as `fit` saw it.
    """

    def __init__(
        self, n_components: int = 1, *, covariance_type: str = "full", tol: float = 1e-3,
        reg_covar: float = 1e-6, max_iter: int = 100, n_init: int = 1, init_params: str = "kmeans",
        weights_init: Any = None, means_init: Any = None, precisions_init: Any = None,
        random_state: Any = None,
    ) -> None:  # fmt: skip
        """Keeps the settings; `fit` checks them.

        Args:
            n_components: k, how many Gaussians.
            covariance_type: "full" or "diag".
            tol: EM ends when the mean log-likelihood of a sample changes by less.
            reg_covar: is added to the diagonal of every covariance.
            max_iter: after so many iterations EM ends in any case.
            n_init: how many starts to try; the one that ends with the highest likelihood counts.
            init_params: divides the samples at first: "kmeans", "k-means++", "random" or
                "random_from_data"; the first start of a seed is that of scikit-learn.
            weights_init: (k,), the weights to start with, instead of those of `init_params`.
            means_init: (k, d), the means to start with.
            precisions_init: (k, d, d), or (k, d) for "diag", the precisions to start with.
            random_state: a seed, a numpy RandomState, or None for another start every time.
        """
        super().__init__(n_components, tol, max_iter, n_init, init_params, random_state)
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init

    def family(self, dimensions: int) -> FullFamily | DiagonalFamily:
        """Makes the formulas of this kind of covariances.

        Args:
            dimensions: how many features a sample has.

        Returns:
            The family of these mixtures.

        Raises:
            ValueError: `covariance_type` or `reg_covar` cannot be.
        """
        kinds: dict[str, type[FullFamily | DiagonalFamily]] = {
            "full": FullFamily,
            "diag": DiagonalFamily,
        }
        if self.covariance_type not in kinds:
            raise ValueError(f"covariance_type: expected full or diag, got {self.covariance_type}")
        if not 0 <= self.reg_covar < np.inf:
            raise ValueError(f"reg_covar: expected a number from 0, got {self.reg_covar}")
        return kinds[self.covariance_type](self.n_components, dimensions, self.reg_covar)

    def centre(self, samples: npt.NDArray[Any]) -> Floats:
        """Takes the samples' mean for their centre: moments about it cancel least.

        Args:
            samples: (n, d).

        Returns:
            (d,), what is subtracted from all samples while EM goes on.
        """
        mean: Floats = np.mean(samples, 0, dtype=np.float64)
        return mean

    def with_given(self, parameters: Parameters, centre: Floats) -> Parameters:
        """Puts `weights_init`, `means_init` and `precisions_init` in the place of a start's own.

        Args:
            parameters: what `init_params` has led to.
            centre: (d,), what was subtracted from all samples.

        Returns:
            The parameters that EM begins with.

        Raises:
            ValueError: what the user gave has another shape, or cannot be.
        """
        k, d = parameters.means.shape
        weights = given("weights_init", self.weights_init, (k,), parameters.weights)
        if abs(weights.sum() - 1) > 1e-6 or weights.min() < 0:
            raise ValueError("weights_init: expected numbers from 0 whose sum is 1")
        means = given("means_init", self.means_init, (k, d), None)
        means = parameters.means if means is None else means - centre
        family = self.family(d)
        if isinstance(family, FullFamily):
            assert isinstance(parameters, FullParameters)
            precisions = given("precisions_init", self.precisions_init, (k, d, d), None)
            root = parameters.root
            if precisions is not None:
                root = family.roots_of_precisions(precisions)
            return family.parameters(weights, means, root)
        assert isinstance(parameters, DiagonalParameters)
        precisions = given("precisions_init", self.precisions_init, (k, d), None)
        variances = parameters.variances if precisions is None else 1 / precisions
        return family.parameters(weights, means, variances)

    def take(self, parameters: Parameters, centre: Floats) -> None:
        """Sets the attributes that a fitted mixture has.

        Args:
            parameters: of the best start.
            centre: (d,), what was subtracted from all samples.
        """
        super().take(parameters, centre)
        if isinstance(parameters, FullParameters):
            self.covariances_ = parameters.root @ parameters.root.transpose(0, 2, 1)
            self.precisions_cholesky_ = parameters.whitening
            self.precisions_ = parameters.whitening @ parameters.whitening.transpose(0, 2, 1)
        else:
            assert isinstance(parameters, DiagonalParameters)
            self.covariances_ = parameters.variances
            self.precisions_cholesky_ = 1 / np.sqrt(parameters.variances)
            self.precisions_ = 1 / parameters.variances

    def draw(self, component: int, count: int, rng: np.random.RandomState) -> Floats:
        """Draws samples of one Gaussian of a fitted mixture.

        Args:
            component: which one, from 0.
            count: how many samples.
            rng: where the randomness comes from.

        Returns:
            (count, d).
        """
        normal = rng.standard_normal((count, self.n_features_in_))
        if self.covariance_type == "full":
            spread = normal @ np.linalg.cholesky(self.covariances_[component]).T
        else:
            spread = normal * np.sqrt(self.covariances_[component])
        drawn: Floats = self.means_[component] + spread
        return drawn


def given(name: str, value: Any, shape: tuple[int, ...], otherwise: Floats | None) -> Any:
    """Checks what the user gave for a start.

    Args:
        name: of the argument, for the error's text.
        value: what was given; None for nothing.
        shape: that it must have.
        otherwise: what to take if nothing was given.

    Returns:
        `value` as float64, or `otherwise`.

    Raises:
        ValueError: it has another shape, or a number in it is not finite.
    """
    if value is None:
        return otherwise
    numbers = np.asarray(value, np.float64)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected finite numbers of shape {shape}, got {numbers.shape}")
    return numbers
