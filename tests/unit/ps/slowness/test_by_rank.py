import pytest

from leash.ps.errors import UsageError
from leash.ps.slowness.by_rank import parse_allocation, parse_heterogeneity, parse_slow


def test_one_delay_is_for_all_workers_and_a_list_is_one_each() -> None:
    assert [str(slowness) for slowness in parse_slow("0.1", workers=3)] == ["0.1"] * 3
    assert [str(slowness) for slowness in parse_slow("0,0,0,0.05", workers=4)] == [
        "0", "0", "0", "0.05",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["0,0", "0,0,0,0", "a", "", "0,,0", "-1", "nan", "exp:1/0"])
def test_delays_that_do_not_fit_three_workers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--slow") as caught:
        parse_slow(text, workers=3)
    assert "\n" not in str(caught.value)


def test_a_wrong_number_of_delays_says_how_many_are_needed() -> None:
    with pytest.raises(UsageError, match="4 with commas"):
        parse_slow("0,0", workers=4)


def test_a_ratio_is_above_0_and_at_most_1() -> None:
    assert parse_heterogeneity("1,0.5", workers=2) == [1.0, 0.5]
    for text in ("0", "1.1", "-1", "nan", "1,1,1"):
        with pytest.raises(UsageError, match="--heterogeneity"):
            parse_heterogeneity(text, workers=2)


def test_an_allocation_is_proportions_with_dashes_between() -> None:
    assert parse_allocation("1.0-0.5", workers=2) == [1.0, 0.5]


@pytest.mark.parametrize("text", ["1.0", "1-1-1", "1-0", "1--1", "1-x", "inf-1", ""])
def test_an_allocation_that_does_not_fit_two_workers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--hetero-allocation") as caught:
        parse_allocation(text, workers=2)
    assert "\n" not in str(caught.value)
