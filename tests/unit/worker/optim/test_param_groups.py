"""What param_groups may say: it becomes a table for the server, or an error that names the mend."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from leash.ps.errors import UsageError
from leash.ps.options.optimizer import OptimizerGroup, optimizer_settings
from leash.ps.options.server import ServerOptions
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.options_table import OptionsTable
from leash.worker.optim.param_groups import InnersGroups, ParamGroups, hyperparameters, named_groups

# The mean is a buffer, which has no group.
LAYOUT = Layout(
    [Slot("w", "f32", (4,)), Slot("b", "f32", (2,)), Slot("mean", "f32", (2,), "buffer")]
)


class Given:
    """A server with these options, the groups of an optimizer, and the tables that were sent."""

    def __init__(self, *own: dict[str, Any], **options: Any) -> None:
        self.tables: list[OptionsTable] = []
        settings = optimizer_settings(OptimizerGroup(**options))
        members = [("w", torch.zeros(4)), ("b", torch.zeros(2))]
        given = [{"params": [pair], **more} for pair, more in zip(members, own, strict=False)]
        named = named_groups(given or members)
        self.own = ParamGroups(settings, named, LAYOUT, LAYOUT.cut(65536), self.tables.append)
        self.groups: list[dict[str, Any]] = [
            {**hyperparameters(settings), **group} for group in named
        ]

    def follow(self, *, has_begun: bool = False) -> None:
        self.own.follow(self.groups, has_begun=has_begun)

    def refused(self, **changed: Any) -> str:
        """What a step says after these values were written into the second group."""
        self.groups[-1].update(changed)
        with pytest.raises(UsageError) as caught:
            self.follow()
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value)


def refused(*own: dict[str, Any], **options: Any) -> str:
    """What the constructor says to these groups."""
    with pytest.raises(UsageError) as caught:
        Given(*own, **options)
    return str(caught.value)


def test_groups_that_say_what_the_server_does_send_nothing() -> None:
    given = Given({"lr": 0.1}, {"momentum": 0, "foreach": None, "fused": False, "name": "biases"},
                  lr=0.1)  # fmt: skip
    given.follow()
    assert given.tables == []


def test_a_group_with_options_of_its_own_is_in_the_table() -> None:
    given = Given({}, {"lr": 1, "clamp": (-1, 2)}, lr=0.1, momentum=0.9)
    (table,) = given.tables
    assert table.group_of_slot == bytes([0, 1, 0])
    sgd = {"lr": 0.1, "weight_decay": 0.0, "maximize": False, "momentum": 0.9, "dampening": 0.0,
           "nesterov": False}  # fmt: skip
    assert table.groups == (sgd, {**sgd, "lr": 1.0, "clamp": (-1.0, 2.0)})


@pytest.mark.parametrize(
    "value", [0.5, np.float64(0.5), np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])[0]]
)
def test_a_rate_is_any_number_and_a_tensor_that_changes_in_place_is_noticed(value: Any) -> None:
    given = Given(lr=0.1)
    given.groups[0]["lr"] = value
    given.follow()
    given.follow()
    if isinstance(value, torch.Tensor):
        value.mul_(0.5)
        given.follow()
        assert [table.groups[0]["lr"] for table in given.tables] == [0.5, 0.25]
    else:
        assert [table.groups[0]["lr"] for table in given.tables] == [0.5]


def test_back_at_the_servers_options_a_table_says_so() -> None:
    given = Given(lr=0.1)
    for rate in (0.2, 0.1):
        given.groups[0]["lr"] = rate
        given.follow()
    assert [table.groups[0]["lr"] for table in given.tables] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("options", "own", "told"),
    [
        ({}, {"momentum": 0.9}, "no buffer: start it with --momentum 0.9"),
        ({"optimizer": "adam"}, {"amsgrad": True}, "no buffer: start it with --amsgrad"),
        ({}, {"betas": (0.9, 0.99)}, "is no option of sgd, the server's optimizer"),
        ({"optimizer": "adam"}, {"momentum": 0.9}, "is no option of adam"),
        ({}, {"alpha": 0.9}, "is no option of sgd"),
        ({}, {"foreach": True}, "runs on the server, which has no such choice"),
        ({"optimizer": "adam"}, {"decoupled_weight_decay": True}, "runs on the server"),
        ({"optimizer": "adagrad"}, {"initial_accumulator_value": 0.5},
         "start the server with --initial-accumulator-value"),
        ({"optimizer": "sum"}, {"weight_decay": 0.1}, "start the server with --weight-decay"),
        ({"optimizer": "sum"}, {"lr": 2.0}, "lr: expected a number from 0 to 1"),
        ({}, {"lr": -1.0}, "param_groups[1]: lr: expected a finite number of at least 0"),
        ({}, {"lr": float("nan")}, "lr: expected a finite number"),
        ({}, {"lr": "fast"}, "lr='fast': give a number"),
        ({}, {"lr": None}, "lr=None: give a number"),
        ({"optimizer": "adam"}, {"betas": 0.9}, "betas=0.9: give two numbers"),
        ({"optimizer": "adam"}, {"betas": (0.9, 1.0)}, "beta2: expected"),
        ({}, {"nesterov": True}, "more than 0 with nesterov"),
        ({}, {"clamp": (1.0, 0.0)}, "clamp=(1.0, 0.0): give a range"),
        ({}, {"clamp": 1.0}, "clamp=1.0: give two numbers"),
        ({}, {"clamp": (float("nan"), 0.0)}, "give a range"),
        ({}, {"max_norm": -1.0}, "max_norm=-1.0: give a number of at least 0, or None"),
        ({}, {"max_norm": float("nan")}, "max_norm=nan: give a number of at least 0"),
        ({}, {"max_norm": float("inf")}, "max_norm=inf: give a number of at least 0, or None"),
        ({}, {"max_norm": False}, "max_norm=False: give a number of at least 0, or None"),
        ({}, {"max_norm": (0.0, 1.0)}, "max_norm=(0.0, 1.0): give a number"),
    ],
)  # fmt: skip
def test_what_the_server_cannot_have_is_an_error_in_a_group_and_later(
    options: dict[str, Any], own: dict[str, Any], told: str
) -> None:
    assert told in refused({}, own, **options)
    later = Given({}, {}, **options).refused(**own)
    assert told in later
    assert "param_groups[1]" in later


@pytest.mark.parametrize(
    ("options", "changed", "told"),
    [
        ({"lr_schedule": "cosine", "lr_total_updates": 9}, {"lr": 0.5},
         "the server has --lr-schedule cosine: leave one of the two out"),
        ({"warmup_updates": 5}, {"lr": 0.5}, "the server has --warmup-updates 5"),
        ({"optimizer": "adam", "amsgrad": True}, {"amsgrad": False}, "cannot change in a run"),
    ],
)  # fmt: skip
def test_what_may_be_given_once_cannot_be_changed(
    options: dict[str, Any], changed: dict[str, Any], told: str
) -> None:
    assert len(Given({}, changed, **options).tables) == 1
    assert told in Given({}, {}, **options).refused(**changed)


def test_momentum_that_begins_later_needs_undampened_gradients() -> None:
    """torch takes the first gradient as it is, a server that has counted steps does not."""
    own = {"momentum": 0.0, "dampening": 0.5}
    assert "needs dampening 0" in Given({}, own, momentum=0.9).refused(momentum=0.5)
    given = Given({}, {"momentum": 0.0}, momentum=0.9)
    given.groups[1]["momentum"] = 0.5
    given.follow()
    assert [table.groups[1]["momentum"] for table in given.tables] == [0.0, 0.5]


def test_a_change_after_gradients_were_sent_is_an_error() -> None:
    given = Given({}, {}, lr=0.1)
    given.groups[1]["lr"] = 0.5
    with pytest.raises(UsageError, match=r"param_groups\[1\]: lr=0.5 was set after gradients"):
        given.follow(has_begun=True)
    assert given.tables == []
    given.follow()
    assert len(given.tables) == 1


@pytest.mark.parametrize(
    "own", [{"lr": 0.5}, {"outer_lr": 0.5}, {"clamp": (0, 1)}, {"max_norm": 1.0}, {"fused": True}]
)
def test_with_an_inner_optimizer_options_are_that_ones(own: dict[str, Any]) -> None:
    settings = optimizer_settings(ServerOptions(outer_lr=1.0))
    groups: list[dict[str, Any]] = [{"name": "all"}, {"foreach": None, "outer_lr": 1.0}]
    checks = InnersGroups(settings, groups)
    assert checks.defaults["outer_lr"] == 1.0
    groups[1].update(own)
    for refused in (lambda: checks.follow(groups), lambda: InnersGroups(settings, groups)):
        with pytest.raises(UsageError, match=r"param_groups\[1\].*(takes the|server's)"):
            refused()


def test_there_are_no_more_groups_than_a_byte_can_name() -> None:
    layout = Layout([Slot(f"w{i}", "f32", (1,)) for i in range(257)])
    named = [{"params": [(slot.name, torch.zeros(1))]} for slot in layout.slots]
    settings = optimizer_settings(OptimizerGroup())
    with pytest.raises(UsageError, match="257 groups, of at most 256"):
        ParamGroups(settings, named, layout, layout.cut(65536), lambda _: None)


def needs_a_norm(layout: Layout, chunk_nbytes: int, slot: int, max_norm: float = 1.0) -> None:
    """Gives one slot a group with a norm, where the server cuts the layout in this way."""
    settings = optimizer_settings(OptimizerGroup())
    groups: list[dict[str, Any]] = [
        {"params": [(given.name, torch.zeros(1))]}
        for given in layout.slots if given.kind == "parameter"
    ]  # fmt: skip
    groups[slot]["max_norm"] = max_norm
    ParamGroups(settings, named_groups(groups), layout, layout.cut(chunk_nbytes), lambda _: None)


# Why the rows of slot 1 cannot all lie in one chunk: they are longer than a chunk; none of them
# begins at a multiple of 64 bytes; some do, but fewer than one in each chunk; a vector is a row.
DIVIDED = {
    "long": [Slot("b", "f32", (16,)), Slot("w", "f64", (7, 30_000))],
    "shifted": [Slot("b", "f32", (10,)), Slot("w", "f32", (500, 256))],
    "odd": [Slot("b", "f32", (16,)), Slot("w", "f32", (500, 1025))],
    "vector": [Slot("b", "f32", (15,)), Slot("w", "f32", (20_000,))],
}


@pytest.mark.parametrize("why", DIVIDED)
def test_rows_that_lie_in_two_chunks_are_an_error_that_names_a_size_at_which_none_does(
    why: str,
) -> None:
    layout = Layout([*DIVIDED[why], Slot("long mean", "f32", (3, 50_000), "buffer")])
    with pytest.raises(UsageError) as caught:
        needs_a_norm(layout, 65536, slot=1)
    told = str(caught.value)
    assert "param_groups[1]: max_norm=1.0" in told
    assert f" w in chunks that do not end with its rows (of {layout.slots[1].row_nbytes}" in told
    (kib,) = map(int, re.findall(r"start the server with --chunk-kib (\d+)$", told))
    ServerOptions(chunk_kib=kib).check()
    needs_a_norm(layout, 1024 * kib, slot=1)
    needs_a_norm(layout, 65536, slot=0)  # of which all rows lie in one chunk


def test_the_size_that_is_named_divides_nothing_that_was_whole() -> None:
    """Chunks of 128 KiB would divide rows of slot 2, which those of 64 KiB do not."""
    shapes = [(187, 3000), (105, 80), (119, 80), (372, 1025)]
    layout = Layout([Slot(str(n), "f32", shape) for n, shape in enumerate(shapes)])
    assert layout.divided(layout.cut(65536)) == {1, 3}
    assert layout.divided(layout.cut(2 * 65536)) == {2}
    with pytest.raises(UsageError) as caught:
        needs_a_norm(layout, 65536, slot=1)
    (kib,) = map(int, re.findall(r"--chunk-kib (\d+)$", str(caught.value)))
    for slot in (1, 2):
        needs_a_norm(layout, 1024 * kib, slot)


def test_where_no_chunk_can_hold_a_row_the_error_names_no_size() -> None:
    layout = Layout([Slot("b", "f32", (1,)), Slot("w", "f32", (1, 1 << 33))])
    with pytest.raises(UsageError, match=r"leave it out$"):
        needs_a_norm(layout, 1 << 30, slot=1)


def test_a_norm_that_is_given_later_is_checked_as_well() -> None:
    settings = optimizer_settings(OptimizerGroup())
    layout = Layout(DIVIDED["long"])
    tables: list[OptionsTable] = []
    named = named_groups([(slot.name, torch.zeros(1)) for slot in layout.slots])
    own = ParamGroups(settings, named, layout, layout.cut(65536), tables.append)
    group = {**hyperparameters(settings), **named[0], "max_norm": 2}
    with pytest.raises(UsageError, match="max_norm=2: the server updates w in chunks"):
        own.follow([group])
    assert tables == []


def test_a_norm_may_change_and_end() -> None:
    given = Given({}, {"max_norm": 2})
    for value in (1.5, None):
        given.groups[1]["max_norm"] = value
        given.follow()
    assert [table.groups[1].get("max_norm") for table in given.tables] == [2.0, 1.5, None]
    assert all("max_norm" not in table.groups[0] for table in given.tables)
