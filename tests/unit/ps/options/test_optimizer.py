from typing import Any

import pytest
import torch

from leash.ps._core import AdagradOptions, AdamOptions, SgdOptions, SumOptions
from leash.ps.errors import UsageError
from leash.ps.options.optimizer import (
    core_options,
    core_schedule,
    optimizer_settings,
    parse_betas,
    with_rates,
)
from leash.ps.options.server import ServerOptions


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "--momentum: --optimizer adam has no such option; "
         "leave it out, or give --optimizer sgd"),
        ({"betas": "0.8,0.9"}, "--betas: .* leave it out, or give --optimizer adam or adamw"),
        ({"optimizer": "adagrad", "amsgrad": True}, "--amsgrad: .* adam or adamw"),
        ({"optimizer": "adamw", "lr_decay": 0.1}, "--lr-decay: .* adagrad"),
        ({"eps": 1e-3}, "--eps: --optimizer sgd has no such option"),
        ({"nesterov": True}, "--nesterov: needs a --momentum above 0"),
        ({"optimizer": "adam", "betas": "0.9"}, "--betas 0.9: give two numbers"),
        ({"optimizer": "adam", "betas": "0.9,1"}, "--betas 0.9,1: give two numbers"),
        ({"optimizer": "adam", "eps": -1.0}, "--eps -1.0: give a number from 0"),
        ({"weight_decay": float("inf")}, "--weight-decay inf: give a number from 0"),
        ({"lr_schedule": "cosine"}, "--lr-schedule cosine: give --lr-total-updates too"),
        ({"lr_schedule": "step"}, "--lr-schedule step: give --lr-step-size too"),
        ({"lr_gamma": 0.5}, "--lr-gamma: --lr-schedule constant has no such option; leave it out, "
         "or give --lr-schedule step"),
        ({"lr_schedule": "step", "lr_step_size": 0}, "--lr-step-size 0: give a number above 0"),
        ({"warmup_start_factor": 0.5}, "--warmup-start-factor: needs --warmup-updates"),
        ({"warmup_updates": 5, "warmup_start_factor": 0.0}, "--warmup-start-factor 0.0: give a"),
        ({"warmup_updates": -1}, "--warmup-updates -1: give a number from 0"),
        ({"optimizer": "sum", "lr": 1.5}, "--lr 1.5: --optimizer sum takes 0 to 1"),
        ({"optimizer": "sum", "weight_decay": 0.1}, "--weight-decay: .* does not descend"),
        ({"optimizer": "sum", "maximize": True}, "--maximize: .* does not descend; leave it out"),
        ({"optimizer": "sum", "momentum": 0.5}, "--momentum: --optimizer sum has no such option"),
        ({"lr_power": 0.7}, "--lr-power: .* or give --lr-schedule power"),
        ({"lr_schedule": "power", "lr_offset": 0.5}, "--lr-offset 0.5: give a number of at least"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text) as raised:
        ServerOptions(**settings).check()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_unless_given_everything_but_the_learning_rate_is_as_in_torch(name: str) -> None:
    of_torch = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "adagrad": "Adagrad"}[name]
    defaults = getattr(torch.optim, of_torch)([torch.zeros(1)]).defaults
    options = ServerOptions(optimizer=name)  # type: ignore[arg-type]
    options.check()
    made, told = core_options(options), optimizer_settings(options)
    names = [n for n in dir(made) if n in defaults and n != "lr"]
    assert {n: getattr(made, n) for n in names} == {n: defaults[n] for n in names}
    assert {n: told[n] for n in names if n != "betas"} == {
        n: defaults[n] for n in names if n != "betas"
    }


def test_the_settings_reach_the_core() -> None:
    sgd = core_options(ServerOptions(momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True))
    assert isinstance(sgd, SgdOptions)
    assert (sgd.momentum, sgd.nesterov, sgd.weight_decay, sgd.maximize) == (0.9, True, 0.1, True)
    adam = core_options(ServerOptions(optimizer="adamw", betas="0.8,0.9", eps=0.1, amsgrad=True))
    assert isinstance(adam, AdamOptions)
    assert (adam.betas, adam.eps, adam.amsgrad, adam.decoupled) == ((0.8, 0.9), 0.1, True, True)
    adagrad = core_options(ServerOptions(optimizer="adagrad", lr_decay=0.2, lr=0.3))
    assert isinstance(adagrad, AdagradOptions)
    assert (adagrad.lr_decay, adagrad.lr, adagrad.eps) == (0.2, 0.3, 1e-10)


def test_the_schedule_reaches_the_core() -> None:
    options = ServerOptions(
        lr_schedule="step", lr_step_size=10, lr_gamma=0.5, warmup_updates=4, warmup_start_factor=0.5
    )
    options.check()
    schedule = core_schedule(options)
    assert [schedule.lr(1.0, version) for version in (0, 2, 4, 13, 14, 24)] == [
        0.5, 0.75, 1.0, 1.0, 0.5, 0.25,
    ]  # fmt: skip


def test_sums_and_their_falling_rate_reach_the_core() -> None:
    options = ServerOptions(
        optimizer="sum", lr=1.0, lr_schedule="power", lr_power=0.5, lr_offset=4.0
    )
    options.check()
    made = core_options(options)
    assert isinstance(made, SumOptions)
    assert made.lr == 1.0
    assert [core_schedule(options).lr(1.0, version) for version in (0, 5)] == [0.5, 1 / 3]


def test_what_does_not_belong_to_the_choice_is_told_as_none() -> None:
    told = optimizer_settings(ServerOptions(optimizer="adam"))
    assert (told["optimizer"], told["betas"], told["momentum"]) == ("adam", "0.9,0.999", None)
    assert (told["lr_schedule"], told["lr_gamma"], told["lr_min"]) == ("constant", None, None)


def test_betas_are_two_numbers() -> None:
    assert parse_betas("0.9, 0.95") == (0.9, 0.95)
    for text in ("", "0.9", "a,b", "0.1,0.2,0.3", "0.9;0.9", "nan,0.9", "-0.1,0.9"):
        with pytest.raises(UsageError, match="--betas"):
            parse_betas(text)


@pytest.mark.parametrize(
    ("settings", "lr", "scaling"),
    [
        ({}, 0.01, "linear"),
        ({"optimizer": "adam"}, 0.01, "linear"),
        ({"local_steps": "8"}, 0.01, "none"),
        ({"local_steps": "auto"}, 0.01, "none"),
        ({"outer_lr": 1.0}, 0.01, "none"),
        ({"local_steps": "1"}, 0.01, "linear"),
        ({"local_steps": "8", "optimizer": "adam"}, 0.001, "none"),
        ({"local_steps": "8", "optimizer": "adagrad"}, 0.01, "none"),
        ({"local_steps": "8", "lr": 0.7, "lr_scaling": "none"}, 0.7, "none"),
        ({"lr": 0.0, "lr_scaling": "none"}, 0.0, "none"),
    ],
)
def test_what_is_left_out_of_the_rates_follows_the_local_steps(
    settings: dict[str, Any], lr: float, scaling: str
) -> None:
    options = ServerOptions(**settings)
    options.check()
    told = optimizer_settings(options)
    assert (told["lr"], told["lr_scaling"]) == (lr, scaling)
    if told["outer_lr"] is None:
        assert core_options(options).lr == lr
    assert with_rates(with_rates(options)) == with_rates(options)
    assert (with_rates(options).lr, with_rates(options).lr_scaling) == (lr, scaling)
