from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.rule import core_compensation, core_staleness_rate
from leash.ps.options.server import ServerOptions


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"staleness_power": 0.3}, "--staleness-power: needs --staleness-lr poly"),
        ({"staleness_lr": "inverse", "staleness_power": 0.3}, "--staleness-power: needs"),
        ({"staleness_lr": "poly", "staleness_power": -1.0}, "--staleness-power -1.0: give a number "
         "from 0"),
        ({"dc_lambda": 0.1}, "--dc-lambda: needs --delay-compensation constant or adaptive"),
        ({"delay_compensation": "constant", "dc_lambda": -0.1}, "--dc-lambda -0.1: give a number"),
        ({"delay_compensation": "constant", "dc_decay": 0.9}, "--dc-decay: needs "
         "--delay-compensation adaptive"),
        ({"delay_compensation": "adaptive", "dc_decay": 1.0}, "--dc-decay 1.0: give a number "
         "from 0 to below 1"),
        ({"delay_compensation": "adaptive", "optimizer": "adam"}, "--delay-compensation adaptive: "
         "corrects sgd alone, not adam; leave it out, or give --optimizer sgd"),
        ({"delay_compensation": "constant", "policy": "bsp"}, "--delay-compensation constant: "
         "nothing is stale under bsp; leave it out, or give --policy ssp or asp"),
        ({"staleness_lr": "inverse", "bound": 0}, "--staleness-lr inverse: nothing is stale "
         "under bsp; leave it out, or give --policy ssp or asp"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [ServerOptions, LaunchOptions])
def test_what_does_not_go_together_is_one_line(
    options: Any, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text) as raised:
        options(**settings, dataset="digits").check()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad"])
@pytest.mark.parametrize("policy", ["ssp", "asp"])
def test_the_rate_goes_with_every_optimizer(policy: Any, optimizer: Any) -> None:
    ServerOptions(policy=policy, optimizer=optimizer, staleness_lr="poly").check()


def test_the_rate_reaches_the_core() -> None:
    rates = [
        core_staleness_rate(options)
        for options in (
            ServerOptions(), ServerOptions(staleness_lr="inverse"),
            ServerOptions(staleness_lr="poly"),
            ServerOptions(staleness_lr="poly", staleness_power=1.0),
        )
    ]  # fmt: skip
    assert [rate.factor(3) for rate in rates] == [1.0, 1 / 3, 0.5, 0.25]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("none", 0.0, 0.95)),
        ({"delay_compensation": "constant"}, ("constant", 0.04, 0.95)),
        ({"delay_compensation": "adaptive"}, ("adaptive", 2.0, 0.95)),
        ({"delay_compensation": "adaptive", "dc_lambda": 0.0, "dc_decay": 0.5},
         ("adaptive", 0.0, 0.5)),
    ],
)  # fmt: skip
def test_the_compensation_reaches_the_core(
    settings: dict[str, Any], expected: tuple[str, float, float]
) -> None:
    made = core_compensation(ServerOptions(**settings))
    assert (made.kind, made.strength, made.decay) == expected
