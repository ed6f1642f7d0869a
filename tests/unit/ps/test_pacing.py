import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.pacing import (
    LEASE_S,
    LEAST_BATCH,
    MAX_AUTO_STEPS,
    Pace,
    Round,
    last_samples,
    lease_samples,
    plan_rounds,
)

TEN_SLEEPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)


def paces(*samples_per_s: float, batch_size: int = 100) -> dict[int, Pace]:
    return {rank: Pace(batch_size, speed) for rank, speed in enumerate(samples_per_s, start=1)}


def batches(*samples_per_s: float, batch_size: int = 100) -> list[int]:
    crew = paces(*samples_per_s, batch_size=batch_size)
    rounds = plan_rounds(crew, weighted=True, local_steps=1)
    return [one.batch_size for one in rounds.values()]


def auto_steps(*step_s: float) -> list[int]:
    crew = paces(*(100 / seconds for seconds in step_s))
    rounds = plan_rounds(crew, weighted=False, local_steps=None)
    return [one.local_steps for one in rounds.values()]


def test_weighted_batches_are_in_proportion_to_the_speeds_and_keep_their_mean() -> None:
    assert batches(400.0, 200.0, 100.0) == [171, 86, 43]
    assert sum(batches(*range(100, 1100, 100))) == 1000


def test_as_long_as_a_speed_is_unknown_all_batches_are_equal() -> None:
    assert batches(400.0, 0.0) == [100, 100]


def test_no_batch_becomes_smaller_than_the_least() -> None:
    assert batches(1e6, 1.0) == [200, round(100 * LEAST_BATCH)]
    assert batches(1e6, 1.0, batch_size=1) == [2, 1]


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20), st.integers(1, 1000))
def test_no_batch_is_empty_and_none_is_more_than_all_together(
    speeds: list[float], batch_size: int
) -> None:
    for batch in batches(*speeds, batch_size=batch_size):
        assert 1 <= batch <= batch_size * len(speeds)


def test_auto_gives_each_worker_the_steps_that_fit_into_three_of_the_slowest() -> None:
    assert auto_steps(*TEN_SLEEPS) == [18, 12, 9, 7, 6, 5, 4, 4, 3, 3]


def test_rounding_down_costs_less_than_two_percent() -> None:
    done_per_s = sum(auto_steps(*TEN_SLEEPS)) / (3 * max(TEN_SLEEPS))
    assert done_per_s > 0.98 * sum(1 / seconds for seconds in TEN_SLEEPS)


def test_auto_begins_with_one_step_and_never_takes_too_many() -> None:
    assert auto_steps(1.0, float("inf")) == [1, 1]
    assert auto_steps(0.001, 1.0) == [MAX_AUTO_STEPS, 3]


def test_a_fixed_number_of_local_steps_is_everybodys() -> None:
    rounds = plan_rounds(paces(1.0, 5.0), weighted=False, local_steps=8)
    assert list(rounds.values()) == [Round(100, 8)] * 2
    assert rounds[1].samples == 800


def test_a_lease_is_one_round_until_all_speeds_are_known() -> None:
    crew = paces(1e6, 0.0)
    rounds = plan_rounds(crew, weighted=False, local_steps=8)
    assert lease_samples(1, 10**6, crew, rounds, lockstep=False) == 800


@pytest.mark.parametrize(("worker", "samples"), [(1, 2000), (2, 1000)])
def test_a_lease_is_a_moments_work_at_the_workers_own_speed(worker: int, samples: int) -> None:
    crew = paces(1000.0, 500.0)
    rounds = plan_rounds(crew, weighted=False, local_steps=1)
    assert lease_samples(worker, 10**6, crew, rounds, lockstep=False) == samples
    assert samples == LEASE_S * crew[worker].samples_per_s


@pytest.mark.parametrize(("worker", "samples"), [(1, 1000), (2, 500)])
def test_a_lease_is_at_most_half_of_the_workers_share_of_what_is_left(
    worker: int, samples: int
) -> None:
    crew = paces(10_000.0, 5000.0)
    rounds = plan_rounds(crew, weighted=False, local_steps=1)
    assert lease_samples(worker, 3000, crew, rounds, lockstep=False) == samples


def test_in_lockstep_all_get_as_many_rounds_as_the_slowest_has_time_for() -> None:
    crew = paces(1000.0, 250.0)
    rounds = plan_rounds(crew, weighted=False, local_steps=1)
    sizes = [lease_samples(w, 10**6, crew, rounds, lockstep=True) for w in crew]
    assert sizes == [500, 500]  # 2 s at 0.4 s a step


def test_in_lockstep_the_last_samples_are_shared_so_that_all_push_once_more() -> None:
    crew = paces(1800.0, 900.0)
    rounds = plan_rounds(crew, weighted=False, local_steps=None)  # 6 and 3
    assert [last_samples(w, 700, 700, crew, rounds, lockstep=True) for w in crew] == [500, 300]


def test_otherwise_the_last_samples_go_in_ever_smaller_parts() -> None:
    crew = paces(900.0, 900.0)
    rounds = plan_rounds(crew, weighted=False, local_steps=8)
    sizes = [last_samples(1, free, 1500, crew, rounds, lockstep=False) for free in (1500, 800, 50)]
    assert sizes == [300, 200, 100]
