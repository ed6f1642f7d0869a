"""A classifier of one mixture for each class, by Bayes' rule."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from leash.ps.options.em import EmOptions
from leash.worker.em.bernoulli import BernoulliMixture
from leash.worker.em.family import Floats, Samples
from leash.worker.em.fitting import Fit, Sums, fit_together
from leash.worker.em.gaussian import GaussianMixture
from leash.worker.em.mixture import Mixture


def mixture_for(options: EmOptions, components: int) -> Mixture:
    """Makes the mixture that the options ask for, not fitted yet.

    Args:
        options: of ``leash em``.
        components: how many.

    Returns:
        A mixture of Gaussians or of Bernoulli variables.
    """
    if options.model == "bmm":
        return BernoulliMixture(
            components, tol=options.tol, max_iter=options.max_iter, n_init=options.n_init,
            random_state=options.seed,
        )  # fmt: skip
    return GaussianMixture(
        components, covariance_type=options.covariance, tol=options.tol,
        reg_covar=options.reg_covar, max_iter=options.max_iter, n_init=options.n_init,
        random_state=options.seed,
    )  # fmt: skip


class MixtureClassifier:
    """Finds the class of largest ln p(x | class) + ln p(class).

    A mixture gives p(x | class), and the class's frequency among the training samples p(class).

    Attributes:
        mixtures: one for each class.
        fits: the same mixtures with their samples, for `fit_together`.
    """

    def __init__(self, mixture: Mixture, samples_by_class: Sequence[Samples]) -> None:
        """Makes a mixture for each class, not fitted yet.

        Args:
            mixture: is cloned for each class.
            samples_by_class: at least as many for each class as the mixture has components.

        Raises:
            ValueError: settings or samples cannot be.
        """
        self.mixtures: Final[list[Mixture]] = [clone(mixture) for _ in samples_by_class]
        self.fits: Final = list(map(Fit, self.mixtures, samples_by_class))
        counts = np.array([len(fit.samples) for fit in self.fits])
        self._log_priors: Final[Floats] = np.log(counts / counts.sum())

    @property
    def iterations(self) -> int:
        """How many iterations all mixtures took together."""
        return sum(mixture.n_iter_ for mixture in self.mixtures)

    @property
    def log_likelihood(self) -> float:
        """The mean log-likelihood of a training sample within its class."""
        bounds = [mixture.lower_bound_ for mixture in self.mixtures]
        return float(np.exp(self._log_priors) @ bounds)

    def fit(
        self, sums: Sums | None = None, on_iteration: Callable[[int], None] = lambda _: None
    ) -> "MixtureClassifier":
        """Fits all mixtures together.

        Args:
            sums: adds up the statistics; this process alone by default.
            on_iteration: called with the number of mixtures that took part.

        Returns:
            This classifier.

        Raises:
            ValueError: a component has collapsed.
        """
        fit_together(self.fits, sums, on_iteration)
        return self

    def predict(self, samples: Samples) -> npt.NDArray[np.int64]:
        """Tells the most probable class of each sample (n, d): (n,)."""
        scores = [mixture.score_samples(samples) for mixture in self.mixtures]
        best: npt.NDArray[np.int64] = (np.stack(scores, 1) + self._log_priors).argmax(1)
        return best

    def accuracy(self, samples: Samples, classes: npt.NDArray[np.int64]) -> float:
        """The share, from 0 to 1, of samples (n, d) whose class (n,) `predict` finds."""
        return float((self.predict(samples) == classes).mean())
