"""What is drawn, and that it is drawn again."""

import math
from collections.abc import Iterator
from statistics import fmean

import numpy as np
import pytest

from leash.ps.slowness.delays import COMPUTING, Delays
from leash.ps.slowness.grammar import parse_slowness


def drawn(text: str, count: int, *, seed: int = 1, rank: int = 1, at_s: float = 0.0) -> list[float]:
    delays = Delays(parse_slowness(text), seed=seed, rank=rank)
    return [delays.next(at_s) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("0.2", 0.2, 0.0),
        ("exp:0.2", 0.2, 0.2),
        ("uniform:0.1,0.3", 0.2, 0.2 / math.sqrt(12)),
        ("normal:0.3,0.05", 0.3, 0.05),
        # Cut off at 0, half of a normal distribution is 0: its mean is σ / √(2π).
        ("normal:0,0.5", 0.5 / math.sqrt(2 * math.pi), 0.5 * math.sqrt(0.5 - 0.5 / math.pi)),
        ("pareto:4,0.3", 0.4, 0.3 * math.sqrt(4 / (9 * 2))),
        ("0.2+pause:chance=0.02,for=5", 0.3, 5 * math.sqrt(0.02 * 0.98)),
        ("exp:0.2+exp:0.2", 0.4, 0.2 * math.sqrt(2)),
    ],
)
def test_its_mean_is_that_of_the_distribution(text: str, mean: float, deviation: float) -> None:
    count = 40_000
    values = drawn(text, count)
    assert min(values) >= 0
    # Four standard errors: with a fixed seed the test is the same every time.
    assert fmean(values) == pytest.approx(mean, abs=4 * deviation / math.sqrt(count) + 1e-9)
    assert np.std(values) == pytest.approx(deviation, rel=0.1, abs=1e-9)


def test_pareto_begins_at_its_scale() -> None:
    values = drawn("pareto:2,0.1", 20_000)
    assert min(values) == pytest.approx(0.1, rel=1e-3)
    # Its survival function is (scale / x) ** shape.
    assert fmean(value > 0.2 for value in values) == pytest.approx(0.25, abs=0.015)


def test_the_seed_repeats_it_and_another_seed_rank_or_use_does_not() -> None:
    first = drawn("exp:0.2", 200)
    assert drawn("exp:0.2", 200) == first
    assert drawn("exp:0.2", 200, seed=2) != first
    assert drawn("exp:0.2", 200, rank=2) != first
    computing = Delays(parse_slowness("exp:0.2"), seed=1, rank=1, use=COMPUTING)
    assert [computing.next(0.0) for _ in range(200)] != first


def test_terms_that_look_alike_are_drawn_apart() -> None:
    both, one = drawn("exp:0.2+exp:0.2", 100), drawn("exp:0.2", 100)
    assert both != [2 * value for value in one]


def test_a_speed_changes_when_its_time_has_come() -> None:
    delays = Delays(parse_slowness("0.2@..60+0.8@60..+1@90..91"), seed=1, rank=1)
    seen = [delays.next(at_s) for at_s in (0.0, 59.9, 60.0, 89.0, 90.5, 91.0)]
    assert seen == pytest.approx([0.2, 0.2, 0.8, 0.8, 1.8, 0.8])


def pauses(rank: int, step_s: float, until_s: float) -> Iterator[float]:
    """When a worker pauses whose steps take so long."""
    delays, now_s = Delays(parse_slowness("pause:every=30,for=5"), seed=1, rank=rank), 0.0
    while now_s < until_s:
        if paused_s := delays.next(now_s):
            assert paused_s == 5.0
            yield now_s
        now_s += paused_s + step_s


def test_pauses_have_their_time_between_them_and_begin_at_another_time_for_each() -> None:
    starts = [list(pauses(rank, 0.5, 2000.0)) for rank in range(1, 41)]
    for of_worker in starts:
        assert 0 <= of_worker[0] <= 30.5
        # 30 s of running and 5 s of standing still, to the next beginning of a step
        assert np.diff(of_worker) == pytest.approx(35.0, abs=0.51)
    firsts = [of_worker[0] for of_worker in starts]
    assert np.mean(firsts) == pytest.approx(15.0, abs=4 * 30 / math.sqrt(12 * 40))
