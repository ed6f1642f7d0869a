import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.server.leases.pacing import (
    LEASE_S,
    LEAST_BATCH,
    MAX_AUTO_STEPS,
    Pace,
    Paces,
    Round,
    RoundPlanner,
    Rounds,
    last_samples,
    lease_samples,
)

TEN_SLEEPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)


def paces(*samples_per_s: float, batch_size: int = 100) -> dict[int, Pace]:
    return {rank: Pace(batch_size, speed) for rank, speed in enumerate(samples_per_s, start=1)}


def rounds_of(crew: Paces, *, weighted: bool, local_steps: int | None) -> Rounds:
    return RoundPlanner(weighted=weighted, local_steps=local_steps).plan(crew, lockstep=True)


def batches(*samples_per_s: float, batch_size: int = 100) -> list[int]:
    crew = paces(*samples_per_s, batch_size=batch_size)
    rounds = rounds_of(crew, weighted=True, local_steps=1)
    return [one.batch_size for one in rounds.values()]


def auto_steps(*step_s: float) -> list[int]:
    crew = paces(*(100 / seconds for seconds in step_s))
    rounds = rounds_of(crew, weighted=False, local_steps=None)
    return [one.local_steps for one in rounds.values()]


def test_weighted_batches_are_in_proportion_to_the_speeds_and_keep_their_mean() -> None:
    assert batches(400.0, 200.0, 100.0) == [171, 86, 43]
    assert sum(batches(*range(100, 1100, 100))) == 1000


def test_as_long_as_a_speed_is_unknown_all_batches_are_equal() -> None:
    assert batches(400.0, 0.0) == [100, 100]


def test_no_batch_becomes_smaller_than_the_least() -> None:
    assert batches(1e6, 1.0) == [200, round(100 * LEAST_BATCH)]
    assert batches(1e6, 1.0, batch_size=1) == [2, 1]


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20), st.integers(2, 40))
def test_no_batch_is_a_single_sample_unless_a_worker_was_started_so(
    speeds: list[float], batch_size: int
) -> None:
    assert min(batches(*speeds, batch_size=batch_size)) > 1


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20), st.integers(1, 1000))
def test_no_batch_is_empty_and_none_is_more_than_all_together(
    speeds: list[float], batch_size: int
) -> None:
    for batch in batches(*speeds, batch_size=batch_size):
        assert 1 <= batch <= batch_size * len(speeds)


def test_auto_gives_each_worker_the_steps_that_fit_into_the_slowest_ones_round() -> None:
    assert auto_steps(0.5, 1.0) == [6, 3]
    assert auto_steps(0.3, 1.0) == [10, 3]
    assert auto_steps(1.0, 1.0, 1.0) == [3, 3, 3]


@pytest.mark.parametrize(("computing_s", "most_lost"), [(0.0, 0.02), (0.015, 0.03), (0.03, 0.03)])
def test_rounds_are_as_long_as_costs_the_least_by_rounding(
    computing_s: float, most_lost: float
) -> None:
    """Three steps of the slowest worker would lose 5 % where a step computes for 15 ms."""
    step_s = [sleep_s + computing_s for sleep_s in TEN_SLEEPS]
    assert speed(auto_steps(*step_s), step_s) > (1 - most_lost) * sum(1 / s for s in step_s)


def test_out_of_lockstep_rounds_are_short_because_longer_ones_are_staler() -> None:
    crew = paces(*(100 / (sleep_s + 0.015) for sleep_s in TEN_SLEEPS))
    planner = RoundPlanner(weighted=False, local_steps=None)
    assert planner.plan(crew, lockstep=True)[10].local_steps > 3
    rounds = planner.plan(crew, lockstep=False)
    assert [one.local_steps for one in rounds.values()] == [17, 11, 8, 7, 5, 5, 4, 4, 3, 3]


def speed(steps: list[int], step_s: list[float]) -> float:
    """Steps a second, where a round takes as long as its slowest."""
    return sum(steps) / max(n * seconds for n, seconds in zip(steps, step_s, strict=True))


@given(st.lists(st.floats(0.995, 1.005), min_size=10, max_size=10))
def test_small_changes_of_the_speeds_do_not_make_the_rounds_longer_and_shorter(
    errors: list[float],
) -> None:
    step_s = [sleep_s + 0.015 for sleep_s in TEN_SLEEPS]
    planner = RoundPlanner(weighted=False, local_steps=None)
    exact = planner.plan(paces(*(100 / seconds for seconds in step_s)), lockstep=True)
    measured = paces(*(100 / s * error for s, error in zip(step_s, errors, strict=True)))
    changed = planner.plan(measured, lockstep=True)
    for rank, one in exact.items():
        assert abs(one.local_steps - changed[rank].local_steps) <= 1


def test_auto_begins_with_one_step_and_never_takes_too_many() -> None:
    assert auto_steps(1.0, float("inf")) == [1, 1]
    assert auto_steps(0.001, 1.0) == [MAX_AUTO_STEPS, 3]


def test_a_fixed_number_of_local_steps_is_everybodys() -> None:
    rounds = rounds_of(paces(1.0, 5.0), weighted=False, local_steps=8)
    assert list(rounds.values()) == [Round(100, 8)] * 2
    assert rounds[1].samples == 800


def test_a_lease_is_one_round_until_all_speeds_are_known() -> None:
    crew = paces(1e6, 0.0)
    rounds = rounds_of(crew, weighted=False, local_steps=8)
    assert lease_samples(1, 99, 10**6, crew, rounds, lockstep=False) == 800


@pytest.mark.parametrize(("worker", "samples"), [(1, 2000), (2, 1000)])
def test_a_lease_is_a_moments_work_at_the_workers_own_speed(worker: int, samples: int) -> None:
    crew = paces(1000.0, 500.0)
    rounds = rounds_of(crew, weighted=False, local_steps=1)
    assert lease_samples(worker, 99, 10**6, crew, rounds, lockstep=False) == samples
    assert samples == LEASE_S * crew[worker].samples_per_s


@pytest.mark.parametrize(("worker", "samples"), [(1, 1000), (2, 500)])
def test_a_lease_is_at_most_half_of_the_workers_share_of_what_is_left(
    worker: int, samples: int
) -> None:
    crew = paces(10_000.0, 5000.0)
    rounds = rounds_of(crew, weighted=False, local_steps=1)
    assert lease_samples(worker, 99, 3000, crew, rounds, lockstep=False) == samples


@pytest.mark.parametrize("lockstep", [False, True])
def test_the_first_leases_are_short_because_little_is_known_of_a_workers_speed(
    lockstep: bool,
) -> None:
    crew = paces(1000.0, 1000.0)
    rounds = rounds_of(crew, weighted=False, local_steps=1)
    sizes = [lease_samples(1, n, 10**6, crew, rounds, lockstep=lockstep) for n in range(1, 8)]
    assert sizes == [100, 200, 400, 800, 1600, 2000, 2000]


def test_in_lockstep_all_get_as_many_rounds_as_the_slowest_has_time_for() -> None:
    crew = paces(1000.0, 250.0)
    rounds = rounds_of(crew, weighted=False, local_steps=1)
    sizes = [lease_samples(w, 99, 10**6, crew, rounds, lockstep=True) for w in crew]
    assert sizes == [500, 500]  # 2 s at 0.4 s a step


def test_in_lockstep_the_last_samples_are_shared_so_that_all_push_once_more() -> None:
    crew = paces(1800.0, 900.0)
    rounds = rounds_of(crew, weighted=False, local_steps=None)  # 6 and 3
    assert [last_samples(w, 700, 700, crew, rounds, lockstep=True) for w in crew] == [500, 300]


def test_otherwise_the_last_samples_go_in_ever_smaller_parts() -> None:
    crew = paces(900.0, 900.0)
    rounds = rounds_of(crew, weighted=False, local_steps=8)
    sizes = [last_samples(1, free, 1500, crew, rounds, lockstep=False) for free in (1500, 800, 50)]
    assert sizes == [300, 200, 100]
