import numpy as np
import pytest

from leash.ps.errors import UsageError
from leash.worker.datasets import epoch_order, permutation, shares

SHARES_OF_7 = [[6, 1], [4, 0], [3, 2, 5]]


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
@pytest.mark.parametrize("weights", [[1.0], [1.0] * 3, [0.1] * 10, [1.0, 0.5], [1e-3, 5.0, 2.5]])
def test_every_position_is_in_exactly_one_share(n: int, weights: list[float]) -> None:
    parts = shares(n, weights, seed=1)
    assert len(parts) == len(weights)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))


@pytest.mark.parametrize("n", range(0, 60, 7))
@pytest.mark.parametrize("weight", [0.1, 1.0, 1 / 3])
def test_equal_weights_give_sizes_that_differ_by_at_most_one(n: int, weight: float) -> None:
    sizes = [len(share) for share in shares(n, [weight] * 7, seed=1)]
    assert max(sizes) - min(sizes) <= 1


def test_shares_are_in_proportion_to_the_weights() -> None:
    assert [len(share) for share in shares(60_000, [1.0, 0.5], seed=1)] == [40_000, 20_000]


@pytest.mark.parametrize("n", [3, 10, 100, 101])
@pytest.mark.parametrize("weights", [[1.0, 0.01], [1.0, 1.0, 0.02, 0.02], [0.1] * 30])
def test_no_share_is_a_single_sample_if_another_has_some_to_spare(
    n: int, weights: list[float]
) -> None:
    sizes = [len(share) for share in shares(n, weights, seed=1)]
    assert sum(sizes) == n
    assert 1 not in sizes or max(sizes) <= 2


def test_shares_depend_on_the_seed_alone() -> None:
    first, again, other = (shares(100, [1, 1], seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_shares_of_three_workers_are_the_same_forever() -> None:
    # Written down once: a run must be repeatable with a later release.
    assert [share.tolist() for share in shares(7, [1, 1, 1], seed=1)] == SHARES_OF_7


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [-1.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_are_no_proportions_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="positive numbers"):
        shares(10, weights, seed=1)


def test_an_epochs_order_holds_the_share_and_nothing_else() -> None:
    share = shares(100, [1, 1], seed=1)[1]
    order = epoch_order(share, seed=1, rank=2, epoch=3)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == sorted(share.tolist())


def test_each_seed_rank_and_epoch_has_an_order_of_its_own() -> None:
    share = np.arange(50)
    orders = {
        tuple(epoch_order(share, seed, rank, epoch).tolist())
        for seed in (0, 1)
        for rank in (1, 2)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 12
    again = epoch_order(share, 1, 2, 0).tolist()
    assert again == epoch_order(share, 1, 2, 0).tolist()


def test_an_epochs_permutation_depends_on_seed_and_epoch_and_holds_every_position() -> None:
    orders = {tuple(permutation(50, seed, epoch).tolist()) for seed in (0, 1) for epoch in (1, 2)}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(permutation(50, 1, 1), epoch_order(np.arange(50), 1, 1, 1))


def test_a_permutation_is_the_same_forever() -> None:
    # Written down once: all workers of a run must have the same, whatever their release.
    assert permutation(7, seed=1, epoch=1).tolist() == [5, 4, 3, 0, 2, 6, 1]
