"""EM for several mixtures at once: each iteration is one sum of sufficient statistics.

A `Sums` knows who holds the samples: this process alone, or workers that meet at a parameter server
(leash.worker.em.distributed). The loop is the same for both.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import numpy as np

from leash.worker.em.family import Family, Floats, Parameters, Samples

# A mixture's samples are cut into so many parts of equal size; a worker's share is a run of them.
PARTS: Final = 840

Compute: TypeAlias = Callable[[Sequence[range]], Floats]


class Sums(Protocol):
    """Adds up what all processes that take part have computed."""

    def total(self, units: int, size: int, compute: Compute) -> Floats:
        """The sum over all units.

        Args:
            units: how many there are to be divided among those who take part.
            size: the length of the vectors.
            compute: the sum over some of the units.

        Returns:
            (size,).
        """


class Alone:
    """Computes all units in this process, which has all of the samples."""

    def total(self, units: int, size: int, compute: Compute) -> Floats:
        """The sum over all units, by one call of `compute`."""
        return compute([range(units)])


class Fittable(Protocol):
    """The part of a mixture that fitting uses: settings, formulas, and where the results go.

    `leash.worker.em.mixture.Mixture` documents each.
    """

    tol: float
    max_iter: int
    n_init: int
    lower_bounds_: list[float]
    lower_bound_: float
    n_iter_: int
    converged_: bool

    def check_samples(self, samples: Samples) -> Samples: ...
    def check_settings(self, samples: int) -> None: ...
    def family(self, dimensions: int) -> Family: ...
    def centre(self, samples: Samples) -> Floats: ...
    def responsibilities(self, samples: Samples, start: int) -> Floats: ...
    def with_given(self, parameters: Parameters, centre: Floats) -> Parameters: ...
    def take(self, parameters: Parameters, centre: Floats) -> None: ...


class Fit:
    """A mixture that is being fitted: its samples, and the parameters so far.

    Attributes:
        mixture: gets the results from `finish`.
        samples: (n, d).
        family: the mixture's formulas.
        centre: (d,), what was subtracted from all samples.
        prepared: the samples as the E-step takes them.
        parameters: of the newest M-step; None before the start.
        lower_bounds: the mean log-likelihood of a sample after each iteration of this start.
        converged: whether this start has converged.
    """

    def __init__(self, mixture: Fittable, samples: Samples) -> None:
        """Checks the settings, and prepares the samples.

        Args:
            mixture: to be fitted.
            samples: (n, d).

        Raises:
            ValueError: a setting or a sample cannot be.
        """
        self.mixture: Final = mixture
        self.samples: Final = mixture.check_samples(samples)
        mixture.check_settings(len(self.samples))
        self.family: Final = mixture.family(self.samples.shape[1])
        self.centre: Final = mixture.centre(self.samples)
        centred = self.samples - self.centre if self.centre.any() else self.samples
        self.prepared: Final = self.family.prepare(centred)
        self.parameters: Parameters | None = None
        self.lower_bounds: list[float] = []
        self.converged = False
        self._best: tuple[list[float], bool, Parameters] | None = None

    @property
    def runs(self) -> bool:
        """Whether this start needs a further iteration."""
        return not self.converged and len(self.lower_bounds) < self.mixture.max_iter

    def start(self, number: int) -> Floats:
        """Computes the statistics with which the start of this number, from 0, begins."""
        return self.family.start(self.prepared, self.mixture.responsibilities(self.samples, number))

    def begin(self, statistics: Floats) -> None:
        """Begins a start.

        Args:
            statistics: as `start` computed them.

        Raises:
            ValueError: a component has no proper distribution.
        """
        started = self.family.maximisation(statistics, None)
        self.parameters = self.mixture.with_given(started, self.centre)
        self.lower_bounds, self.converged = [], False

    def statistics(self, parts: Sequence[range]) -> Floats:
        """Takes the E-step over some of the `PARTS` parts of the samples."""
        assert self.parameters is not None
        total = np.zeros(self.family.size)
        for run in parts:
            rows = slice(run.start * len(self.samples) // PARTS,
                         run.stop * len(self.samples) // PARTS)  # fmt: skip
            total += self.family.expectation(self.parameters, self.prepared[rows])
        return total

    def advance(self, statistics: Floats) -> None:
        """Takes the M-step, and notes whether EM has converged.

        Args:
            statistics: of all samples.

        Raises:
            ValueError: a component has collapsed.
        """
        lower_bound = float(statistics[0] / statistics[1])
        before = self.lower_bounds[-1] if self.lower_bounds else -np.inf
        self.parameters = self.family.maximisation(statistics, self.parameters)
        self.lower_bounds.append(lower_bound)
        self.converged = abs(lower_bound - before) < self.mixture.tol

    def keep_if_best(self) -> None:
        """Keeps this start's result if its log-likelihood is the highest so far."""
        assert self.parameters is not None
        if self._best is None or self.lower_bounds[-1] > self._best[0][-1]:
            self._best = (self.lower_bounds, self.converged, self.parameters)

    def finish(self) -> None:
        """Gives the mixture the results of the best start."""
        assert self._best is not None
        bounds, converged, parameters = self._best
        mixture = self.mixture
        mixture.lower_bounds_, mixture.lower_bound_ = bounds, bounds[-1]
        mixture.n_iter_, mixture.converged_ = len(bounds), converged
        mixture.take(parameters, self.centre)


def fit_together(
    fits: Sequence[Fit], sums: Sums | None = None,
    on_iteration: Callable[[int], None] = lambda _: None,
) -> None:  # fmt: skip
    """Fits all mixtures, each until it has converged, with one sum for all in each iteration.

    Args:
        fits: the mixtures and their samples.
        sums: adds up the statistics; this process alone by default.
        on_iteration: called with the number of mixtures that took part.

    Raises:
        ValueError: a component has collapsed.
    """
    added = sums or Alone()
    for number in range(fits[0].mixture.n_init):
        _start(fits, number, added)
        while active := [fit for fit in fits if fit.runs]:
            iteration(active, added)
            on_iteration(len(active))
        for fit in fits:
            fit.keep_if_best()
    for fit in fits:
        fit.finish()


def iteration(fits: Sequence[Fit], sums: Sums) -> None:
    """Takes an E-step and an M-step of each mixture, with one sum for all."""

    def compute(parts: Sequence[range]) -> Floats:
        return np.concatenate([fit.statistics(parts) for fit in fits])

    total = sums.total(PARTS, size_of(fits), compute)
    for fit, part in zip(fits, split(fits, total), strict=True):
        fit.advance(part)


def _start(fits: Sequence[Fit], number: int, sums: Sums) -> None:
    """Begins the start of this number: one process computes each mixture's, and all take it."""

    def compute(chosen: Sequence[range]) -> Floats:
        mine = {position for run in chosen for position in run}
        parts = [
            fit.start(number) if position in mine else np.zeros(fit.family.size)
            for position, fit in enumerate(fits)
        ]
        return np.concatenate(parts)

    total = sums.total(len(fits), size_of(fits), compute)
    for fit, part in zip(fits, split(fits, total), strict=True):
        fit.begin(part)


def size_of(fits: Sequence[Fit]) -> int:
    """The length of the vector that holds the statistics of all mixtures end to end."""
    return sum(fit.family.size for fit in fits)


def split(fits: Sequence[Fit], total: Floats) -> list[Floats]:
    """Cuts such a vector into the statistics of each mixture: views."""
    return np.split(total, np.cumsum([fit.family.size for fit in fits])[:-1])
