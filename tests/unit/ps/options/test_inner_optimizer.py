from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.options.base import common_options
from leash.ps.options.commands import LaunchOptions
from leash.ps.options.inner_optimizer import InnerOptimizerGroup, check_inner_belongs
from leash.ps.options.worker import WorkerOptions


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"inner_lr": -0.1}, "--inner-lr -0.1: give a number from 0"),
        ({"inner_weight_decay": float("nan")}, "--inner-weight-decay nan: give a number from 0"),
        ({"inner_momentum": -1.0}, "--inner-momentum -1.0: give a number from 0"),
        ({"inner_optimizer": "adam", "inner_momentum": 0.9}, "--inner-momentum: --inner-optimizer "
         "adam has no such option; leave it out, or give --inner-optimizer sgd"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        WorkerOptions(**settings).check()


@pytest.mark.parametrize(
    ("settings", "lr", "weight_decay"),
    [
        ({}, 0.01, 0.0),
        ({"inner_optimizer": "adam"}, 0.001, 0.0),
        ({"inner_optimizer": "adamw"}, 0.001, 0.01),
        ({"inner_optimizer": "adamw", "inner_lr": 0.5, "inner_weight_decay": 0.0}, 0.5, 0.0),
        ({"inner_lr": 0.0}, 0.0, 0.0),
    ],
)
def test_what_is_left_out_follows_the_inner_optimizer(
    settings: dict[str, Any], lr: float, weight_decay: float
) -> None:
    options = InnerOptimizerGroup(**settings)
    assert (options.chosen_inner_lr, options.chosen_inner_weight_decay) == (lr, weight_decay)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"inner_optimizer": "adam"}, "--inner-optimizer"),
        ({"inner_lr": 0.1}, "--inner-lr"),
        ({"inner_momentum": 0.5}, "--inner-momentum"),
        ({"inner_weight_decay": 0.0}, "--inner-weight-decay"),
    ],
)
def test_an_inner_option_needs_local_steps(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag}: needs local steps"):
        check_inner_belongs(WorkerOptions(**settings), "1")
    with pytest.raises(UsageError, match=f"{flag}: needs local steps"):
        LaunchOptions(dataset="digits", **settings).check()
    for local_steps in ("2", "auto"):
        check_inner_belongs(WorkerOptions(**settings), local_steps)
        LaunchOptions(dataset="digits", local_steps=local_steps, **settings).check()


def test_without_any_of_them_a_run_needs_no_local_steps() -> None:
    check_inner_belongs(WorkerOptions(), "1")


def test_a_launch_hands_them_to_its_workers() -> None:
    launch = LaunchOptions(dataset="digits", local_steps="4", inner_optimizer="adam", inner_lr=0.1)
    worker = common_options(launch, WorkerOptions)
    assert (worker.inner_optimizer, worker.inner_lr) == ("adam", 0.1)
