import pytest

from ps.errors import UsageError
from worker.stragglers import Straggler


def test_a_slow_worker_sleeps_its_delay_before_each_step() -> None:
    slept: list[float] = []
    straggler = Straggler(slow_s=0.05, sleep=slept.append)
    straggler.before_step()
    straggler.before_step()
    assert slept == [0.05, 0.05]


@pytest.mark.parametrize("heterogeneity", [0.25, 0.5, 1.0])
def test_a_worker_of_heterogeneity_r_takes_1_over_r_times_its_own_time(
    heterogeneity: float,
) -> None:
    slept: list[float] = []
    Straggler(heterogeneity=heterogeneity, sleep=slept.append).after_compute(0.3)
    assert 0.3 + sum(slept) == pytest.approx(0.3 / heterogeneity)


def test_a_worker_that_is_not_slow_never_sleeps() -> None:
    slept: list[float] = []
    straggler = Straggler(sleep=slept.append)
    straggler.before_step()
    straggler.after_compute(0.3)
    assert slept == []


@pytest.mark.parametrize("heterogeneity", [0.0, -1.0, 1.01, float("nan"), float("inf")])
def test_heterogeneity_outside_0_to_1_is_refused(heterogeneity: float) -> None:
    with pytest.raises(UsageError, match="heterogeneity"):
        Straggler(heterogeneity=heterogeneity)


@pytest.mark.parametrize("slow_s", [-0.1, float("nan"), float("inf")])
def test_a_delay_that_is_no_duration_is_refused(slow_s: float) -> None:
    with pytest.raises(UsageError, match="--slow"):
        Straggler(slow_s=slow_s)
