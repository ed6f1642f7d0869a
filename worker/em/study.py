"""One run of `leash em`: fits mixtures of several sizes in turn, and tells their accuracies."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from leash.ps.errors import LeashError
from leash.ps.options.em import EmOptions
from leash.ps.runs.rundir import write_atomically
from leash.worker.em.classifier import MixtureClassifier, mixture_for
from leash.worker.em.family import Samples
from leash.worker.em.images import (
    DIGITS,
    Features,
    Images,
    features_for,
    load_images,
    require_enough,
)
from leash.worker.em.pictures import MISSING, can_draw, draw_accuracy, draw_means

Fitting = Callable[[MixtureClassifier, Callable[[int], None]], None]

RESULTS: Final = "em.json"
NAMES: Final = {"gmm": "Gaussians", "bmm": "Bernoullis"}


@dataclass(frozen=True)
class Result:
    """The results of mixtures of one size.

    Attributes:
        k: how many components each digit's mixture has.
        accuracy: on the test images, from 0 to 1.
        log_likelihood: of a training image within its digit, on average.
        iterations: how many all digits took together; passes, if online.
        converged: whether all digits' mixtures have converged.
        fit_seconds: how long fitting took, with the start.
        em_seconds: how long it took without the start.
        iterations_per_s: iterations in a second of `em_seconds`.
    """

    k: int
    accuracy: float
    log_likelihood: float
    iterations: int
    converged: bool
    fit_seconds: float
    em_seconds: float
    iterations_per_s: float


class Study:
    """Fits mixtures to the images of each digit, and writes down what came of it.

    Attributes:
        results: by the number of components.
    """

    def __init__(
        self, options: EmOptions, out: Path, say: Callable[[str], None],
        now: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        """Reads the images and makes samples of them.

        Args:
            options: of ``leash em``.
            out: an existing folder for the results.
            say: shows a line.
            now: seconds on a clock that never goes back.

        Raises:
            UsageError: files are missing or damaged, or a digit has fewer images than components.
        """
        self._options: Final = options
        self._out: Final = out
        self._say: Final = say
        self._now: Final = now
        images = load_images(options.path, options.len_train_data)
        require_enough(images, max(options.ks))
        self._features: Final[Features] = features_for(options, images)
        self._test: Final = self._features.samples(images.test)
        self._images: Final[Images] = images
        train = self._features.samples(images.train)
        self._by_digit: Final[list[Samples]] = [
            train[images.positions(digit)] for digit in range(DIGITS)
        ]
        self.results: Final[dict[int, Result]] = {}
        self._fitted: Final[dict[int, tuple[MixtureClassifier, float, float]]] = {}

    @property
    def dimensions(self) -> int:
        """How many features a sample has."""
        return int(self._test.shape[1])

    def fit(self, k: int, fitting: Fitting) -> None:
        """Fits mixtures of k components.

        Args:
            k: how many components each digit's mixture gets.
            fitting: fits a classifier, and calls its second argument after each iteration.

        Raises:
            LeashError: a component has collapsed.
        """
        classifier = MixtureClassifier(mixture_for(self._options, k), self._by_digit)
        began_s = self._now()
        em_began_s: list[float] = []
        with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
            bar = progress.add_task(f"k = {k}: the start", total=None)

            def on_iteration(active: int) -> None:
                em_began_s.append(self._now())
                progress.update(bar, advance=1,
                                description=f"k = {k}: {active} digits, iteration")  # fmt: skip

            try:
                fitting(classifier, on_iteration)
            except LeashError:
                raise
            except ValueError as error:
                raise LeashError(f"k = {k}: {error}; here --reg-covar and --k") from error
        ended_s = self._now()
        self._fitted[k] = (classifier, ended_s - began_s, _em_seconds(em_began_s))

    def evaluate(self, k: int) -> None:
        """Measures the accuracy of the mixtures of k components, says it, and writes all down."""
        classifier, fit_s, em_s = self._fitted[k]
        result = Result(
            k, classifier.accuracy(self._test, self._images.test_labels),
            classifier.log_likelihood, classifier.iterations,
            all(mixture.converged_ for mixture in classifier.mixtures),
            round(fit_s, 3), round(em_s, 3), round(classifier.iterations / max(em_s, 1e-9), 2),
        )  # fmt: skip
        self.results[k] = result
        self._say(
            f"k = {k:<3} accuracy {result.accuracy:.4f}   {result.iterations} iterations of a "
            f"mixture, {result.fit_seconds:.1f} s, {result.iterations_per_s:.0f}/s"
        )
        self._write()
        self._write_mixtures(k, classifier)

    def report(self) -> None:
        """Evaluates what was not evaluated yet, then shows the table and draws the pictures."""
        for k in self._fitted:
            if k not in self.results:
                self.evaluate(k)
        Console().print(self._table())
        if self._options.pictures:
            self._draw()
        self._say(f"results, mixtures{' and pictures' if self._options.pictures else ''} in "
                  f"{self._out}")  # fmt: skip

    def _write(self) -> None:
        told = {
            "settings": dataclasses.asdict(self._options),
            "results": [dataclasses.asdict(result) for result in self.results.values()],
        }
        write_atomically(self._out / RESULTS, json.dumps(told, indent=1) + "\n")

    def _write_mixtures(self, k: int, classifier: MixtureClassifier) -> None:
        arrays: dict[str, Any] = {}
        for name in ("weights_", "means_", "covariances_"):
            if hasattr(classifier.mixtures[0], name):
                parts = [getattr(mixture, name) for mixture in classifier.mixtures]
                arrays[name.rstrip("_")] = np.stack(parts)
        np.savez(self._out / f"mixtures-k{k}.npz", **arrays)

    @property
    def title(self) -> str:
        """Says in a line what was fitted to what, for the table and the pictures."""
        options = self._options
        if options.model == "bmm":
            return "MNIST, a mixture of Bernoullis for each digit"
        kind = {"full": "full", "diag": "diagonal"}[options.covariance]
        return f"MNIST, a mixture of Gaussians for each digit, {kind} covariance, {options.pca} PCs"

    def _table(self) -> Table:
        table = Table(title=self.title)
        for name in ("k", "accuracy", "log-likelihood", "iterations", "seconds", "iterations/s"):
            table.add_column(name, justify="right")
        for r in self.results.values():
            table.add_row(
                str(r.k), f"{r.accuracy:.4f}", f"{r.log_likelihood:.3f}", str(r.iterations),
                f"{r.fit_seconds:.1f}", f"{r.iterations_per_s:.1f}",
            )  # fmt: skip
        return table

    def _draw(self) -> None:
        if not can_draw():
            self._say(MISSING)
            return
        results = sorted(self.results.values(), key=lambda result: result.k)
        draw_accuracy(self._out / "accuracy.png", self.title, [r.k for r in results],
                      [r.accuracy for r in results])  # fmt: skip
        k = results[-1].k
        mixtures = self._fitted[k][0].mixtures
        draw_means(
            self._out / f"means-k{k}.png", f"{self.title}: the means",
            [self._features.pictures(m.means_[np.argsort(-m.weights_)]) for m in mixtures],
        )  # fmt: skip


def _em_seconds(iteration_ends_s: list[float]) -> float:
    """How long all iterations took, from those behind the first: the start is no part of EM."""
    if len(iteration_ends_s) < 2:
        return 0.0
    timed_s = iteration_ends_s[-1] - iteration_ends_s[0]
    return timed_s * len(iteration_ends_s) / (len(iteration_ends_s) - 1)
