"""How long does an iteration of EM take?

One E-step and one M-step of ten mixtures of Gaussians with full covariances, each on 6,000 samples
of 40 dimensions: they have the size of MNIST's digits, and are random, since an iteration's work
does not depend on the samples' values. Each process has one thread; all take turns.

`numpy` is the code of a textbook: a loop over the components, each with its inverse and a quadratic
form, vectorised over the samples. `sklearn` is scikit-learn's own two steps. `leash` without a
transport is one process alone; with a transport, workers that sum through a server.

    python -m leash.bench.em [--short] [--workers 1,2] [--json FILE] [--picture FILE]
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from leash.bench.command import bench_main
from leash.bench.harness.crew import Join, crew
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import TRIES, Exchange, Round, Times, Trial, in_turn
from leash.bench.options import TRANSPORTS, BenchOptions
from leash.bench.systems.leash import server
from leash.ps.options.base import parse_counts

TITLE = "EM, iterations/s of ten mixtures together"
PEERS = ("numpy", "sklearn")

DIGITS: Final = 10
SAMPLES: Final = 6000  # for each digit
DIMENSIONS: Final = 40
ITERATIONS: Final = 3  # so many are timed as one
ALL_COMPONENTS, SHORT_COMPONENTS = (10, 20), (10,)
EM_WORKERS: Final = "1,2"
REG_COVAR: Final = 0.03

Floats = NDArray[np.float64]


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments. Rounds are counted."""
    counts = parse_counts("--workers", options.workers or EM_WORKERS)
    rounds = options.rounds or (2 if options.short else 7)
    components = SHORT_COMPONENTS if options.short else ALL_COMPONENTS
    rows: list[Row] = []
    for i, k in enumerate(components):
        doing(f"k = {k}", i / len(components))
        with ExitStack() as stack:
            running = {trial: start_em(trial, stack) for trial in em_trials(k, counts)}
            # Under bsp all workers must do the same number of steps, so each round is one exchange.
            tries = 1 if options.short else TRIES  # a round takes seconds
            times = in_turn(rounds, 0.0, running, warmup_s=0.0, tries=tries)
        rows += [make_row(trial, per_iteration(times[trial])) for trial in running]
    return rows


def em_trials(k: int, counts: list[int]) -> Iterator[Trial]:
    common = Trial(bench="em", system="numpy", case=f"k={k}", codec="")
    yield common
    yield replace(common, system="sklearn")
    yield replace(common, system="leash")
    for transport, workers in itertools.product(TRANSPORTS, counts):
        yield replace(common, system="leash", transport=transport, workers=workers)


def start_em(trial: Trial, stack: ExitStack) -> Round:
    if not trial.transport:
        return stack.enter_context(crew(trial, WITHOUT_SERVER[trial.system], ""))
    from leash.worker.em.distributed import server_words

    words = server_words(trial.workers, em_size(components_of(trial)), online=False)
    del words["step_events"]  # `server` passes it itself
    options = [f"--{name.replace('_', '-')}={value}" for name, value in words.items()]
    address, _ = stack.enter_context(server(*options))
    return stack.enter_context(crew(trial, em_worker, address))


def per_iteration(times: Times) -> Times:
    """Counts an iteration that workers do together as one, which takes as long as the first's."""
    first = [seconds / ITERATIONS for seconds in times.by_worker[0]]
    return replace(times, by_worker=(first,))


# In a worker's process, some iterations are timed.


@contextmanager
def leash_alone(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    from leash.worker.em.fitting import Alone

    fits = started_fits(components_of(trial))
    with one_thread():
        yield lambda: iterate(fits, Alone())


@contextmanager
def em_worker(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    from leash.worker.client import Client
    from leash.worker.em.distributed import WorkerSums, statistics_layout

    k = components_of(trial)
    fits = started_fits(k)
    layout = statistics_layout(trial.workers, em_size(k))
    client = Client(address, layout, rank=rank, transport=trial.transport)
    try:
        sums = WorkerSums(client, trial.workers)
        client.begin(client.slabs[0])
        with one_thread():
            yield lambda: iterate(fits, sums)
    finally:
        client.close()


@contextmanager
def textbook(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    k = components_of(trial)
    mixtures = [(samples, first_parameters(samples, k)) for samples in data()]

    def iterations() -> None:
        for samples, parameters in mixtures:
            for _ in range(ITERATIONS):
                parameters = textbook_iteration(samples, *parameters)  # noqa: PLW2901

    with one_thread():
        yield iterations


@contextmanager
def scikit_learn(trial: Trial, _: str, __: int) -> Iterator[Exchange]:
    from sklearn.mixture import GaussianMixture

    mixtures = []
    for samples in data():
        _, means, covariances = first_parameters(samples, components_of(trial))
        mixture = GaussianMixture(
            len(means), reg_covar=REG_COVAR, means_init=means, max_iter=1,
            precisions_init=np.linalg.inv(covariances), init_params="random_from_data",
            random_state=1,
        )  # fmt: skip
        mixtures.append((mixture.fit(samples), samples))

    def iterations() -> None:
        for mixture, samples in mixtures:
            for _ in range(ITERATIONS):
                # `fit` would do one more E-step than iterations.
                _, log_shares = mixture._e_step(samples)
                mixture._m_step(samples, log_shares)

    with one_thread():
        yield iterations


WITHOUT_SERVER: Final[dict[str, Join]] = {
    "leash": leash_alone,
    "numpy": textbook,
    "sklearn": scikit_learn,
}


def data() -> list[Floats]:
    """Draws clusters that overlap."""
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 0.5, (DIGITS, 30, DIMENSIONS))
    return [
        of_digit[rng.integers(0, 30, SAMPLES)] + rng.normal(0, 0.5, (SAMPLES, DIMENSIONS))
        for of_digit in centres
    ]


def first_parameters(samples: Floats, k: int) -> tuple[Floats, Floats, Floats]:
    """The weights, means and covariances with which all systems begin."""
    means = samples[np.random.default_rng(k).choice(len(samples), k, replace=False)]
    return np.full(k, 1 / k), means, np.stack([np.cov(samples.T)] * k)


def started_fits(k: int) -> list[Any]:
    from leash.worker.em import GaussianMixture
    from leash.worker.em.fitting import Fit

    fits = []
    for samples in data():
        weights, means, covariances = first_parameters(samples, k)
        mixture = GaussianMixture(
            k, reg_covar=REG_COVAR, weights_init=weights, means_init=means,
            precisions_init=np.linalg.inv(covariances), init_params="random_from_data",
            random_state=1,
        )  # fmt: skip
        fit = Fit(mixture, samples)
        fit.begin(fit.start(0))
        fits.append(fit)
    return fits


def iterate(fits: Sequence[Any], sums: Any) -> None:
    from leash.worker.em.fitting import iteration

    for _ in range(ITERATIONS):
        iteration(fits, sums)


def textbook_iteration(
    samples: Floats, weights: Floats, means: Floats, covariances: Floats
) -> tuple[Floats, Floats, Floats]:
    """Does one iteration of EM in plain numpy."""
    joint = np.empty((len(samples), len(weights)))
    for k, (weight, mean, covariance) in enumerate(zip(weights, means, covariances, strict=True)):
        difference = samples - mean
        precision = np.linalg.inv(covariance)
        distance = np.einsum("ni,ij,nj->n", difference, precision, difference, optimize=True)
        _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
        joint[:, k] = np.log(weight) - 0.5 * (distance + log_determinant)
    largest = joint.max(1, keepdims=True)
    shares = np.exp(joint - largest)
    shares /= shares.sum(1, keepdims=True)
    counts = shares.sum(0)
    means = shares.T @ samples / counts[:, None]
    covariances = np.empty_like(covariances)
    for k, mean in enumerate(means):
        difference = samples - mean
        covariances[k] = (shares[:, k] * difference.T) @ difference / counts[k]
        covariances[k] += REG_COVAR * np.eye(len(mean))
    return counts / len(samples), means, covariances


def components_of(trial: Trial) -> int:
    return int(trial.case.removeprefix("k="))


def em_size(k: int) -> int:
    """The number of values in the statistics of all mixtures."""
    from leash.worker.em.gaussian import FullFamily

    return DIGITS * FullFamily(k, DIMENSIONS, REG_COVAR).size


def one_thread() -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("em", argv)


if __name__ == "__main__":
    raise SystemExit(main())
