import math
from typing import Any

import pytest

from leash.ps.trackers.curves import Curves, Point

BEGAN_S = 1000.0


def points_of(*events: dict[str, Any]) -> list[Point]:
    curves = Curves(BEGAN_S)
    return [point for event in events for point in curves.points(event)]


def step(t: float, worker: int, number: int, lag: int = 0) -> dict[str, Any]:
    return {"t": t, "event": "step", "worker": worker, "step": number, "lag": lag, "staleness": 0}


def training(t: float, worker: int, number: int, **changes: Any) -> dict[str, Any]:
    plain = {"samples": 1, "loss": 0.5, "compute_s": 3.0, "wait_s": 1.0}
    return {"t": t, "event": "training", "worker": worker, "step": number, **plain, **changes}


STARTED = {"t": 1.0, "event": "started", "workers": [1, 2]}


def test_evaluations_lie_over_epochs() -> None:
    event = {"t": 2.5, "event": "evaluated", "epoch": 3, "loss": 0.25, "accuracy": None}
    assert points_of(event) == [Point(1002.5, "test/loss", 0, "epoch", 3, 0.25)]


def test_a_workers_account_lies_over_the_steps_of_all() -> None:
    joined = {
        "t": 0.5,
        "event": "joined",
        "worker": 2,
        "incarnation": 9,
        "name": "",
        "first_step": 8,
    }
    told = points_of(joined, training(1.0, 1, 5))
    assert [(p.tag, p.counts, p.step, p.value) for p in told] == [
        ("train_loss/worker_1", "steps", 12, 0.5), ("waiting/worker_1", "steps", 12, 0.25)
    ]  # fmt: skip


def test_what_is_not_known_is_no_point() -> None:
    assert points_of(training(1.0, 1, 5, loss=None, wait_s=None)) == []
    observer = {"t": 0.5, "event": "joined", "worker": 0, "incarnation": 9, "name": "",
                "first_step": 0}  # fmt: skip
    assert points_of(STARTED, observer, {"t": 3.0, "event": "a later release's"}) == []


def test_speed_and_lags_are_points_once_a_second() -> None:
    steps = [step(1.0 + n / 10, 1 + n % 2, 1 + n // 2, lag=n % 3) for n in range(1, 41)]
    told = points_of(STARTED, *steps)
    rates = [p for p in told if p.name == "train/steps_per_second"]
    assert [p.value for p in rates] == [pytest.approx(10.0, rel=0.11)] * len(rates)
    assert len(rates) in (3, 4)
    for worker in (1, 2):
        assert len([p for p in told if p.tag == f"lag/worker_{worker}"]) in (4, 5)


def test_what_is_logged_keeps_its_step_and_its_name() -> None:
    logged = {
        "t": 1.0,
        "event": "logged",
        "worker": 2,
        "step": 7,
        "metrics": {"a/b": "nan", "c": 1},
    }
    nan, one = points_of(logged)
    assert (nan.tag, nan.counts, nan.step) == ("a/b/worker_2", "step", 7)
    assert math.isnan(nan.value)
    assert one == Point(1001.0, "c", 2, "step", 7, 1.0)
