"""``optimizer.state``: the inner optimizer's, empty, or an error that names the mend."""

from collections import defaultdict
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
import torch
from torch import nn

from leash.ps.errors import UsageError
from leash.worker.optim.servers_state import ShownState

State = MutableMapping[Any, Any]
KEPT: list[dict[str, Any]] = [
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "adam"},
    {"optimizer": "adamw"},
    {"optimizer": "adagrad"},
    {"optimizer": "sgd", "outer_lr": 1.0, "outer_momentum": 0.9},
]
NONE: list[dict[str, Any]] = [
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "sum"},
    {"optimizer": "sgd", "outer_lr": 1.0, "outer_momentum": 0.0},
]
READS: list[Callable[[State], Any]] = [
    lambda state: state.get("p"),
    lambda state: "p" in state,
    len, bool, list, dict,
    lambda state: list(state.items()),
    lambda state: list(state.values()),
    lambda state: state.clear(),
]  # fmt: skip
WRITES: list[Callable[[State], Any]] = [
    lambda state: state["p"],
    lambda state: state["p"].get("exp_avg"),
    lambda state: state.setdefault("p", {}),
    lambda state: state.update(p={}),
    lambda state: state.pop("p"),
]


class Steps:
    """Counts a worker's steps."""

    def __init__(self) -> None:
        self.count = 0

    def shown(self, settings: dict[str, Any], inner: torch.optim.Optimizer | None = None) -> Any:
        return ShownState(settings, inner, lambda: self.count > 0)


@pytest.mark.parametrize("settings", KEPT, ids=str)
def test_what_the_server_keeps_can_be_neither_read_nor_written(settings: dict[str, Any]) -> None:
    steps = Steps()
    shown = steps.shown(settings)
    steps.count = 1
    for use in [*READS, *WRITES]:
        with pytest.raises(UsageError, match=r"momentum and averages are the server's.*--resume"):
            use(shown.value)
    with pytest.raises(UsageError, match="momentum and averages"):
        shown.replace(defaultdict(dict))


def test_before_the_first_step_it_is_empty_as_torchs_and_keeps_nothing() -> None:
    shown = Steps().shown(KEPT[0])
    theirs = torch.optim.Adam(nn.Linear(1, 1).parameters()).state
    for read in READS:
        assert read(shown.value) == read(theirs)
    for write in WRITES:
        with pytest.raises(UsageError, match="momentum and averages"):
            write(shown.value)


@pytest.mark.parametrize("settings", NONE, ids=str)
def test_where_the_server_keeps_none_it_is_as_empty_as_torchs(settings: dict[str, Any]) -> None:
    steps = Steps()
    shown = steps.shown(settings)
    steps.count = 1
    assert not shown.value
    shown.value["p"]["mine"] = 1
    assert shown.value["p"] == {"mine": 1}
    shown.replace({})
    assert shown.value == {}
    shown.require_not_before(7, shown.taken_at(3))


def test_an_inner_optimizers_state_is_shown_and_replaced() -> None:
    model = nn.Linear(1, 1)
    inner = torch.optim.Adam(model.parameters())
    shown = Steps().shown(KEPT[-1], inner)
    model(torch.ones(1, 1)).backward()
    inner.step()
    assert shown.value[model.weight]["exp_avg"] is inner.state[model.weight]["exp_avg"]
    shown.replace(defaultdict(dict))
    assert not inner.state
    with shown.hidden():
        assert shown.value == {}
    assert shown.value is inner.state


def test_only_its_own_state_of_another_step_is_one_that_it_would_go_back_to() -> None:
    mine, other = Steps().shown(KEPT[1]), Steps().shown(KEPT[1])
    taken = mine.taken_at(3)
    mine.require_not_before(3, taken)
    other.require_not_before(7, taken)
    mine.require_not_before(7, {})
    with pytest.raises(UsageError, match=r"taken at step 3 .*, which is at step 7 now"):
        mine.require_not_before(7, taken)
