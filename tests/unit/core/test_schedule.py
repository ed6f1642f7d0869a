"""Learning rates against torch.optim.lr_scheduler, and a whole training with one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from leash.ps._core import AdamOptions, ChunkSpec, Nonfinite, Rule, Schedule, Shard

BASE = 0.3
WARMUP: dict[str, Any] = {"warmup_updates": 7, "warmup_start_factor": 0.2}
SCHEDULES: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "constant": (partial(lr_scheduler.ConstantLR, factor=1.0), {}),
    "step": (
        partial(lr_scheduler.StepLR, step_size=5, gamma=0.3),
        {"step_size": 5, "gamma": 0.3},
    ),
    "cosine": (
        partial(lr_scheduler.CosineAnnealingLR, T_max=30, eta_min=0.01),
        {"total_updates": 30, "minimum": 0.01},
    ),
}


def after_warmup(of_torch: Callable[[Any], Any], optimizer: Any) -> Any:
    linear = lr_scheduler.LinearLR(
        optimizer, WARMUP["warmup_start_factor"], total_iters=WARMUP["warmup_updates"]
    )
    return lr_scheduler.SequentialLR(
        optimizer, [linear, of_torch(optimizer)], milestones=[WARMUP["warmup_updates"]]
    )


@pytest.mark.parametrize("decay", SCHEDULES)
@pytest.mark.parametrize("warmup", [False, True], ids=["", "after a warm-up"])
def test_every_learning_rate_is_that_of_torch(decay: str, warmup: bool) -> None:
    of_torch, settings = SCHEDULES[decay]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=BASE)
    scheduler = after_warmup(of_torch, optimizer) if warmup else of_torch(optimizer)
    schedule = Schedule(decay, **settings, **(WARMUP if warmup else {}))
    for version in range(31 + 7 * warmup):
        expected = optimizer.param_groups[0]["lr"]
        assert schedule.lr(BASE, version) == pytest.approx(expected, rel=1e-6, abs=0)
        optimizer.step()
        scheduler.step()


def test_a_cosine_stays_down_where_torchs_would_rise_again() -> None:
    schedule = Schedule("cosine", total_updates=30, minimum=0.01)
    assert [schedule.lr(BASE, version) for version in (30, 31, 60, 2**60)] == [0.01] * 4


def test_a_power_falls_with_the_updates_as_stochastic_approximation_has_it() -> None:
    schedule = Schedule("power", power=0.7, offset=3.0)
    for version in (0, 1, 10, 10_000):
        assert schedule.lr(BASE, version) == pytest.approx(BASE / (version + 3) ** 0.7, rel=1e-15)
    after_warmup = Schedule("power", power=0.7, offset=3.0, warmup_updates=4)
    assert after_warmup.lr(BASE, 14) == schedule.lr(BASE, 10)


def test_without_a_schedule_the_learning_rate_is_constant() -> None:
    assert [Schedule().lr(BASE, version) for version in (0, 1, 2**60)] == [BASE] * 3


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"decay": "linear"}, "decay: expected 'constant' 'step' 'cosine' 'power', got 'linear'"),
        ({"step_size": 0}, "step_size: expected at least 1, got 0"),
        ({"total_updates": 0}, "total_updates: expected at least 1, got 0"),
        ({"gamma": float("nan")}, "gamma: expected a finite number of at least 0, got nan"),
        ({"minimum": -1.0}, "minimum: expected a finite number of at least 0, got -1"),
        ({"warmup_start_factor": 0.0}, "warmup_start_factor: expected above 0, at most 1, got 0"),
        ({"power": -0.5}, "power: expected a finite number of at least 0, got -0.5"),
        ({"offset": 0.0}, "offset: expected a finite number of at least 1, got 0"),
    ],
)
def test_a_schedule_says_what_it_expected(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Schedule(**values)


@pytest.mark.parametrize("average", [False, True], ids=["asp", "bsp"])
def test_a_whole_training_with_adam_cosine_and_warmup_is_that_of_torch(average: bool) -> None:
    """A quadratic: the gradient is the distance to a target, so that errors do not hide."""
    n = 300
    target = torch.randn(n, generator=torch.manual_seed(0))
    parameter = torch.zeros(n, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=BASE)
    scheduler = after_warmup(SCHEDULES["cosine"][0], optimizer)
    shard = Shard(
        [ChunkSpec(values=n, dtype="f32", kind="parameter")], AdamOptions(lr=BASE),
        rule=Rule(bound=0, gather="step") if average else Rule(), nonfinite=Nonfinite.RAISE,
        schedule=Schedule("cosine", total_updates=30, minimum=0.01, **WARMUP),
    )  # fmt: skip
    shard.init(0, bytes(4 * n))
    shard.join(1, 0)
    payload = np.zeros(n, np.float32)
    for step in range(1, 38):
        parameter.grad = parameter.detach() - target
        optimizer.step()
        scheduler.step()
        payload -= target.numpy()
        shard.push(0, 1, step, 1, payload, True)
        np.testing.assert_allclose(payload, parameter.detach().numpy(), rtol=0, atol=5e-6)
