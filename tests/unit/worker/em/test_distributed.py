"""EM over a server and workers, which are threads here, against EM in one process."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits

from leash.ps.errors import LeashError, UsageError
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.messages import Bye, Ok
from leash.ps.words import DONE, LIVE
from leash.worker.client import Client
from leash.worker.em import BernoulliMixture, GaussianMixture
from leash.worker.em.classifier import MixtureClassifier
from leash.worker.em.distributed import (
    WorkerSums,
    chunk_kib_for,
    divide,
    require_server,
    server_words,
    statistics_layout,
)
from leash.worker.em.family import Floats
from leash.worker.em.mixture import Mixture
from leash.worker.em.online import fit_online
from support.servers import serving

KINDS: dict[str, Mixture] = {
    "full": GaussianMixture(3, reg_covar=0.1, random_state=1),
    "diag": GaussianMixture(4, covariance_type="diag", reg_covar=0.1, random_state=1),
    "bernoulli": BernoulliMixture(3, random_state=1),
}
PATIENCE_S = 60.0

Samples = list[NDArray[Any]]
Play = Callable[[int, Client, MixtureClassifier], None]


def samples_for(kind: str) -> Samples:
    pixels, labels = load_digits(return_X_y=True)
    table = (pixels > 8).astype(np.uint8) if kind == "bernoulli" else pixels[:, 18:30]
    return [table[labels == digit] for digit in range(4)]


def play(
    kind: str, workers: int, part: Play, mixture: Mixture | None = None, **settings: Any
) -> list[MixtureClassifier]:
    """Every worker fits its own classifier; raises what a worker raised."""
    samples, chosen = samples_for(kind), mixture or KINDS[kind]
    classifiers = [MixtureClassifier(chosen, samples) for _ in range(workers)]
    size = sum(fit.family.size for fit in classifiers[0].fits)
    words = server_words(workers, size, online=bool(settings.pop("online", False)))
    failures: list[BaseException] = []

    def live(rank: int, address: str) -> None:
        layout = statistics_layout(workers, size)
        client = Client(address, layout, rank=rank, say=lambda _: None)
        reason = "failed"
        try:
            part(rank, client, classifiers[rank - 1])
            reason = "done"
        except BaseException as failure:
            failures.append(failure)
        finally:
            client.close(reason)

    with serving(**{**words, **settings}) as running, ExitStack() as stack:
        threads = [
            threading.Thread(target=live, args=(rank, running.address))
            for rank in range(1, workers + 1)
        ]
        for thread in threads:
            thread.start()
            stack.callback(thread.join, PATIENCE_S)
    if failures:
        raise failures[0]
    return classifiers


def in_step(_: int, client: Client, classifier: MixtureClassifier) -> None:
    sums = WorkerSums(client, client.settings["workers"])
    client.begin(client.slabs[0])
    classifier.fit(sums)


def require_same(found: MixtureClassifier, expected: MixtureClassifier) -> None:
    for mine, theirs in zip(found.mixtures, expected.mixtures, strict=True):
        assert (mine.n_iter_, mine.converged_) == (theirs.n_iter_, theirs.converged_)
        np.testing.assert_allclose(mine.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)
        for name in ("weights_", "means_", "covariances_"):
            if hasattr(theirs, name):
                np.testing.assert_allclose(
                    getattr(mine, name), getattr(theirs, name), rtol=1e-9, atol=1e-12
                )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_what_one_process_gives(kind: str, workers: int) -> None:
    expected = MixtureClassifier(KINDS[kind], samples_for(kind)).fit()
    for found in play(kind, workers, in_step):
        require_same(found, expected)


def test_all_workers_have_the_same_bits() -> None:
    first, *others = play("full", 3, in_step)
    for other in others:
        for mine, theirs in zip(first.mixtures, other.mixtures, strict=True):
            assert mine.means_.tobytes() == theirs.means_.tobytes()


class LostError(Exception):
    """A worker that ends in the middle."""


@pytest.mark.parametrize("victims", [{2: 0}, {1: 1}, {3: 6}, {1: 4, 2: 9}, {2: 5, 3: 5}], ids=str)
def test_the_loss_of_workers_changes_nothing(victims: dict[int, int]) -> None:
    """Rank ▸ the sums that it takes part in before it is gone, the start being the first."""
    survivors: list[MixtureClassifier] = []
    reporters: list[int] = []

    def part(rank: int, client: Client, classifier: MixtureClassifier) -> None:
        sums = WorkerSums(client, 3)
        client.begin(client.slabs[0])
        left = victims.get(rank)
        if left is None:
            classifier.fit(sums)
            survivors.append(classifier)
            reporters.extend([rank] if sums.reports else [])
            return
        with pytest.raises(LostError):
            classifier.fit(Leaving(sums, left))
        raise LostError

    with pytest.raises(LostError):
        play("full", 3, part)
    expected = MixtureClassifier(KINDS["full"], samples_for("full")).fit()
    assert len(survivors) == 3 - len(victims)
    for survivor in survivors:
        require_same(survivor, expected)
    assert reporters == [min({1, 2, 3} - set(victims))]


class Leaving:
    """Computes its share once more, and is gone before it pushes it."""

    def __init__(self, sums: WorkerSums, left: int) -> None:
        self._sums, self._left = sums, left

    def total(self, units: int, size: int, compute: Callable[[Sequence[range]], Floats]) -> Floats:
        def last(runs: Sequence[range]) -> Floats:
            found = compute(runs)
            if self._left == 0:
                raise LostError
            return found

        total = self._sums.total(units, size, last)
        self._left -= 1
        return total


def say_bye_for(client: Client) -> None:
    """Has the server go on without this worker, as after an eviction."""
    with ControlChannel(client.address) as channel:
        channel.request(Bye(client.rank, client.incarnation, "failed"), Ok)


class Cut:
    """Is evicted before each of these sums, the start being number 0."""

    def __init__(self, sums: WorkerSums, client: Client, before: Sequence[int]) -> None:
        self._sums, self._client, self._before = sums, client, before
        self._number = 0

    def total(self, units: int, size: int, compute: Callable[[Sequence[range]], Floats]) -> Floats:
        if self._number in self._before:
            say_bye_for(self._client)
        self._number += 1
        return self._sums.total(units, size, compute)


@pytest.mark.parametrize(
    "cuts",
    [{2: [0]}, {1: [1]}, {3: [2, 3, 6]}, {1: [4], 2: [4]}, {1: [2, 5], 2: [2], 3: [2, 8]}],
    ids=str,
)
def test_workers_that_are_evicted_join_again_and_change_nothing(
    cuts: dict[int, list[int]],
) -> None:
    """Rank ▸ before which sums; the last has all of them evicted at once."""
    reports: dict[int, bool] = {}

    def part(rank: int, client: Client, classifier: MixtureClassifier) -> None:
        sums = WorkerSums(client, 3)
        client.begin(client.slabs[0])
        classifier.fit(Cut(sums, client, cuts.get(rank, [])))
        for other in (1, 2, 3):  # the run would end without one that has not said hello yet
            await_live(client, other)
        assert sums.agree(done=True)
        reports[rank] = sums.reports

    expected = MixtureClassifier(KINDS["full"], samples_for("full")).fit()
    first, *others = play("full", 3, part)
    for found in (first, *others):
        require_same(found, expected)
    for other in others:  # bit by bit, or they would part some day
        for mine, theirs in zip(first.mixtures, other.mixtures, strict=True):
            assert mine.means_.tobytes() == theirs.means_.tobytes()
    assert reports == {1: True, 2: False, 3: False}


def test_a_worker_that_is_evicted_while_it_waits_is_told_what_the_others_computed() -> None:
    clients: dict[int, Client] = {}
    evicted: list[int] = []

    def part(rank: int, client: Client, classifier: MixtureClassifier) -> None:
        clients[rank] = client
        sums = WorkerSums(client, 2)
        client.begin(client.slabs[0])
        classifier.fit(Slow(sums, client))

    class Slow:
        """Worker 1 evicts worker 2 once that has pushed its part of the fourth sum."""

        def __init__(self, sums: WorkerSums, client: Client) -> None:
            self._sums, self._client, self._number = sums, client, 0

        def total(self, units: int, size: int, compute: Any) -> Floats:
            def late(runs: Sequence[range]) -> Floats:
                if self._client.rank == 1 and self._number == 4 and not evicted:
                    evicted.append(2)
                    await_waiting(self._client, 2)
                    say_bye_for(clients[2])
                if self._client.rank == 1 and self._number == 6:
                    await_live(self._client, 2)
                return np.asarray(compute(runs))

            self._number += 1
            return self._sums.total(units, size, late)

    expected = MixtureClassifier(KINDS["full"], samples_for("full")).fit()
    for found in play("full", 2, part):
        require_same(found, expected)
    assert evicted == [2]


def await_live(client: Client, worker: int) -> None:
    """Returns once this worker takes part, or has done so: it needs nobody who was evicted."""
    while True:
        states = {row["worker"]: row["state"] for row in client.state()["table"]}
        if states[worker] in (LIVE, DONE):
            return


def await_waiting(client: Client, worker: int) -> None:
    """Returns once this worker has taken the step that this client is at."""
    while True:
        rows = {row["worker"]: row for row in client.state()["table"]}
        if rows[worker]["step"] > client.steps:
            return


def test_who_misses_more_sums_than_are_kept_is_told_so() -> None:
    def part(rank: int, client: Client, _: MixtureClassifier) -> None:
        sums = WorkerSums(client, 2, kept_nbytes=100)
        client.begin(client.slabs[0])
        for number in range(8):
            if rank == 1 and number == 3:
                say_bye_for(client)
                client.pause(2.0)
            if rank == 2 and number == 7:
                await_live(client, 1)
            sums.total(2, 3, lambda runs: np.ones(3))

    with pytest.raises(LeashError, match="away for too long"):
        play("full", 2, part)


def test_a_latecomer_is_told_that_its_share_is_taken() -> None:
    def part(_: int, client: Client, __: MixtureClassifier) -> None:
        sums = WorkerSums(client, 1)
        client.begin(client.slabs[0])
        sums.total(10, 3, lambda runs: np.ones(3))
        again = Client(client.address, client.layout, rank=1, say=lambda _: None)
        with pytest.raises(LeashError, match="this run has begun"):
            WorkerSums(again, 1)
        again.close("done")

    play("full", 1, part)


def test_shares_are_equal_runs_in_order() -> None:
    assert divide([range(10)], [1, 2, 5]) == {1: [range(3)], 2: [range(3, 6)], 5: [range(6, 10)]}
    assert divide([range(4), range(8, 10)], [2, 3]) == {
        2: [range(3)], 3: [range(3, 4), range(8, 10)],
    }  # fmt: skip
    assert divide([range(1)], [1, 2]) == {1: [], 2: [range(1)]}


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 100])
def test_whatever_is_divided_is_divided_once(workers: int) -> None:
    rng = np.random.default_rng(workers)
    edges = np.sort(rng.choice(1000, 12, replace=False)).tolist()
    runs = [range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    shares = divide(runs, list(range(1, workers + 1)))
    units = [unit for rank in sorted(shares) for run in shares[rank] for unit in run]
    assert units == [unit for run in runs for unit in run]
    sizes = [sum(map(len, share)) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1


def test_a_server_that_is_not_for_em_is_named_with_the_command() -> None:
    settings = {"workers": 2, "learners": "1-2", "policy": "ssp", "optimizer": "sgd", "lr": 0.01,
                "lr_schedule": "constant"}  # fmt: skip
    wanted = r"leash server --policy bsp --optimizer sum --lr 1.0 --workers 2 --chunk-kib 128"
    with pytest.raises(UsageError, match=wanted):
        require_server(settings, 1, 16_000, online=False)
    fitting = {**settings, **server_words(2, 16_000, online=False)}
    require_server(fitting, 1, 16_000, online=False)
    with pytest.raises(UsageError, match="--chunk-kib 128"):
        require_server(fitting, 2, 16_000, online=False)
    with pytest.raises(UsageError, match=r"--policy ssp .* --lr-schedule power"):
        require_server(fitting, 1, 16_000, online=True)


def test_a_chunk_holds_all_statistics() -> None:
    for workers, size in ((1, 1), (2, 8190), (2, 8191), (100, 10**6)):
        layout = statistics_layout(workers, size)
        assert len(layout.cut(1024 * chunk_kib_for(workers, size))) == 1


# Stepwise.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 3])
def test_stepwise_em_comes_near_to_where_batches_end(kind: str, workers: int) -> None:
    """From a start that is far from the end: one sample for each component."""
    batch = MixtureClassifier(far(kind), samples_for(kind)).fit()

    def part(_: int, client: Client, classifier: MixtureClassifier) -> None:
        fit_online(classifier.fits, client, workers, passes=8, batch_size=20, seed=1)

    for found in play(kind, workers, part, far(kind), online=True):
        for mine, theirs in zip(found.mixtures, batch.mixtures, strict=True):
            first, last = theirs.lower_bounds_[0], theirs.lower_bound_
            assert mine.lower_bound_ - first > 0.8 * (last - first) > 0


def test_a_worker_of_stepwise_em_that_is_evicted_joins_again() -> None:
    batch = MixtureClassifier(far("full"), samples_for("full")).fit()

    evicted = threading.Event()

    def part(rank: int, client: Client, classifier: MixtureClassifier) -> None:
        steps: list[int] = []

        def on_step(_: int) -> None:
            steps.append(1)
            if rank == 2 and len(steps) == 3:
                say_bye_for(client)
                evicted.set()
            if rank == 1 and len(steps) == 6:  # it would come to its end alone
                assert evicted.wait(PATIENCE_S)
                await_live(client, 2)

        fit_online(classifier.fits, client, 2, passes=8, batch_size=20, seed=1, on_step=on_step)

    for found in play("full", 2, part, far("full"), online=True):
        for mine, theirs in zip(found.mixtures, batch.mixtures, strict=True):
            first, last = theirs.lower_bounds_[0], theirs.lower_bound_
            assert mine.lower_bound_ - first > 0.8 * (last - first) > 0


def far(kind: str) -> Mixture:
    mixture: Mixture = clone(KINDS[kind]).set_params(init_params="random_from_data")
    return mixture
