from dataclasses import dataclass, field
from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.slowness.grammar import parse_slowness
from leash.worker.train.slowdown import Slowdown


@dataclass
class Clock:
    """Time that passes when somebody sleeps or computes, and keeps what was slept."""

    now_s: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def slowdown(clock: Clock, slow: str = "0", heterogeneity: float = 1.0, **more: Any) -> Slowdown:
    return Slowdown(parse_slowness(slow), heterogeneity, sleep=clock.sleep, now=clock.now, **more)


def play(clock: Clock, made: Slowdown, steps: int, compute_s: float, samples: int = 100) -> float:
    """So many steps; returns how long they took."""
    began_s = clock.now_s
    for _ in range(steps):
        made.before_step()
        clock.now_s += compute_s
        made.after_compute(compute_s, samples)
    return clock.now_s - began_s


def test_a_slow_worker_sleeps_its_delay_before_each_step() -> None:
    clock = Clock()
    made = slowdown(clock, "0.05")
    made.before_step()
    made.before_step()
    assert clock.slept == [0.05, 0.05]


@pytest.mark.parametrize("heterogeneity", [0.25, 0.5, 1.0])
def test_a_worker_of_heterogeneity_r_takes_1_over_r_times_its_own_time(
    heterogeneity: float,
) -> None:
    clock = Clock()
    slowdown(clock, heterogeneity=heterogeneity).after_compute(0.3, 100)
    assert 0.3 + sum(clock.slept) == pytest.approx(0.3 / heterogeneity)


def test_what_disturbs_one_step_is_not_multiplied() -> None:
    """One step in ten computes five times as long; all sleep nearly the same."""
    clock = Clock()
    made = slowdown(clock, heterogeneity=0.25)
    computed_s = [0.5 if step % 10 == 9 else 0.1 for step in range(800)]
    for compute_s in computed_s:
        play(clock, made, 1, compute_s)
    assert sum(computed_s) + sum(clock.slept) == pytest.approx(sum(computed_s) / 0.25, rel=0.02)
    later = clock.slept[400:]
    assert max(later) < 1.5 * min(later)


def test_steps_that_grow_are_paid_in_full() -> None:
    clock = Clock()
    made = slowdown(clock, heterogeneity=0.25)
    took_s = play(clock, made, 200, 0.1) + play(clock, made, 600, 0.2)
    assert took_s == pytest.approx(4 * (200 * 0.1 + 600 * 0.2), rel=0.005)


def test_a_first_step_that_takes_long_is_paid_for_once_and_at_once() -> None:
    clock = Clock()
    made = slowdown(clock, heterogeneity=0.5)
    assert play(clock, made, 1, 3.0) == pytest.approx(6.0)
    for _ in range(100):
        assert play(clock, made, 1, 0.1) == pytest.approx(0.2)


def test_another_batch_size_is_felt_at_once() -> None:
    clock = Clock()
    made = slowdown(clock, heterogeneity=0.25)
    play(clock, made, 50, 0.1, samples=100)
    for _ in range(50):
        assert play(clock, made, 1, 0.05, samples=50) == pytest.approx(4 * 0.05)


def test_a_worker_that_is_not_slow_never_sleeps() -> None:
    clock = Clock()
    play(clock, slowdown(clock), 3, 0.3)
    assert clock.slept == []


@pytest.mark.parametrize("heterogeneity", [0.0, -1.0, 1.01, float("nan"), float("inf")])
def test_heterogeneity_outside_0_to_1_is_refused(heterogeneity: float) -> None:
    with pytest.raises(UsageError, match="heterogeneity"):
        Slowdown(heterogeneity=heterogeneity)


# The time scale.


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1])
@pytest.mark.parametrize(
    ("slow", "heterogeneity"), [("0.9", 1.0), ("exp:0.9", 1.0), ("0.7", 0.5), ("0", 0.05)]
)
def test_a_scaled_run_takes_its_scale_times_as_long(
    slow: str, heterogeneity: float, scale: float
) -> None:
    """The oracle is the same run at full scale, with the same draws."""
    clock, full = Clock(), Clock()
    steps, compute_s = 500, 0.05
    took_s = play(clock, slowdown(clock, slow, heterogeneity, time_scale=scale), steps, compute_s)
    whole_s = play(full, slowdown(full, slow, heterogeneity), steps, compute_s)
    # What is left to pay at the end is at most a few steps' computing.
    assert took_s == pytest.approx(scale * whole_s, abs=5 * compute_s)


def test_a_debt_carries_over_to_a_step_that_can_pay_it() -> None:
    clock = Clock()
    made = slowdown(clock, "0@..4+10@4..", time_scale=0.5)
    for _ in range(3):  # at 0, 1 and 2 s of the clock; the third is 4 s into the experiment
        made.before_step()
        clock.now_s += 1.0
        made.after_compute(1.0, 100)
    # Half of ten seconds, less the half of both seconds that were computed before.
    assert clock.slept == pytest.approx([5.0 - 1.0])


def test_a_debt_that_cannot_be_paid_is_told_at_the_end_with_a_scale_that_can() -> None:
    clock = Clock()
    made = slowdown(clock, "0.1", time_scale=0.1)
    play(clock, made, 100, 0.1)
    complaint = made.complaint()
    assert complaint is not None
    assert "4.96 times as long" in complaint  # before the last step 9.91 s, and 2 s were wanted
    assert "give 0.5 or more" in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_where_the_delays_pay_for_it_nobody_complains(scale: float) -> None:
    clock = Clock()
    made = slowdown(clock, "0.2", time_scale=scale)
    play(clock, made, 5, 0.1)
    assert made.complaint() is None


def test_pauses_and_changes_are_in_seconds_of_the_experiment() -> None:
    clock = Clock()
    made = slowdown(clock, "1@..9.5+3@9.5..", time_scale=0.1)
    took_s = play(clock, made, 20, 0.0)
    # Ten seconds of 1 s each, then ten steps of 3 s, a tenth of it all.
    assert took_s == pytest.approx(0.1 * (10 * 1 + 10 * 3))


@pytest.mark.parametrize(
    ("slow", "heterogeneity", "time_scale", "expected"),
    [
        ("0", 1.0, 1.0, False),
        ("0.1", 1.0, 1.0, False),
        ("0", 0.5, 1.0, True),
        ("0", 1.0, 3.0, True),
    ],
)
def test_only_what_stretches_computing_goes_by_how_long_it_took(
    slow: str, heterogeneity: float, time_scale: float, expected: bool
) -> None:
    made = slowdown(Clock(), slow, heterogeneity, time_scale=time_scale)
    assert made.goes_by_compute == expected
