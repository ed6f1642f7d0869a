"""The table of options for groups of slots: what is read is what was written, and nothing else."""

import math
from typing import Any

import msgpack
import pytest

from leash.ps._core import AdamOptions, SgdOptions
from leash.ps.errors import OptionsError, PayloadSizeError
from leash.ps.options.optimizer import OPTIONS_OF
from leash.ps.wire.options_table import (
    GROUP_OPTIONS,
    OptionsTable,
    core_clamps,
    core_group,
    core_max_norms,
)

SGD = {"lr": 0.1, "weight_decay": 0.0, "maximize": False, "momentum": 0.9, "dampening": 0.0,
       "nesterov": False}  # fmt: skip
ADAM = {"lr": 0.1, "weight_decay": 0.0, "maximize": True, "betas": (0.9, 0.99), "eps": 1e-8,
        "amsgrad": False}  # fmt: skip
SLOTS = 4


def packed(**changed: Any) -> bytes:
    table = {"groups": [SGD, {**SGD, "lr": 0.5}], "group_of_slot": bytes([0, 1, 1, 0]), **changed}
    data: bytes = msgpack.packb(table)
    return data


@pytest.mark.parametrize(
    ("optimizer", "groups"),
    [
        ("sgd", (SGD, {**SGD, "clamp": (-math.inf, 2.0)})),
        ("sgd", ({**SGD, "max_norm": 0.5}, {**SGD, "max_norm": 1.0, "clamp": (0.0, 1.0)})),
        ("adam", (ADAM,)),
        ("sum", ({"lr": 1.0},)),
    ],
)
def test_a_table_is_read_as_it_was_written(optimizer: str, groups: tuple[Any, ...]) -> None:
    table = OptionsTable(groups, bytes(SLOTS))
    assert OptionsTable.unpack(table.pack(), optimizer, SLOTS) == table


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"", "msgpack map"),
        (b"\xc1", "msgpack map"),
        (packed() + b"\0", "msgpack map"),
        (msgpack.packb([SGD]), "expected groups and group_of_slot"),
        (packed(more=1), "expected groups and group_of_slot"),
        (packed(groups=[]), "expected a list"),
        (packed(groups={}), "expected a list"),
        (packed(groups=[SGD] * 257), "msgpack map"),
        (packed(groups=[SGD, 1]), "of sgd, got 1"),
        (packed(groups=[SGD, ADAM]), "of sgd"),
        (packed(groups=[SGD, {"lr": 0.1}]), "of sgd"),
        (packed(groups=[SGD, {**SGD, "eps": 0.1}]), "of sgd"),
        (packed(groups=[SGD, {**SGD, "lr": 1}]), "lr: expected a finite float, got 1"),
        (packed(groups=[SGD, {**SGD, "lr": math.nan}]), "lr: expected a finite float"),
        (packed(groups=[SGD, {**SGD, "momentum": math.inf}]), "momentum: expected a finite"),
        (packed(groups=[SGD, {**SGD, "nesterov": 1}]), "nesterov: expected true or false"),
        (packed(groups=[SGD, {**SGD, "clamp": [1.0]}]), "clamp: expected two floats"),
        (packed(groups=[SGD, {**SGD, "clamp": [0, 1]}]), "clamp: expected two floats"),
        (packed(groups=[SGD, {**SGD, "max_norm": 1}]), "max_norm: expected a finite float"),
        (packed(groups=[SGD, {**SGD, "max_norm": math.inf}]), "max_norm: expected a finite float"),
        (packed(groups=[SGD, {**SGD, "max_norm": None}]), "max_norm: expected a finite float"),
        (packed(group_of_slot=bytes(3)), "expected 4 bytes"),
        (packed(group_of_slot=[0, 0, 0, 0]), "expected 4 bytes"),
        (packed(group_of_slot=bytes([0, 1, 2, 0])), "expected groups below 2, got 2"),
        (packed(group_of_slot=bytes(1 << 17)), "msgpack map"),
    ],
)
def test_what_is_no_table_is_refused_by_name(payload: bytes, told: str) -> None:
    with pytest.raises(PayloadSizeError, match=told):
        OptionsTable.unpack(payload, "sgd", SLOTS)


def test_groups_have_the_options_of_their_optimizer_but_for_what_makes_its_buffers() -> None:
    common = {"lr", "weight_decay", "maximize"}
    for optimizer, own in OPTIONS_OF.items():
        expected = {"lr"} if optimizer == "sum" else common | set(own)
        assert set(GROUP_OPTIONS[optimizer]) == expected - {"initial_accumulator_value"}


def test_the_core_gets_what_the_group_says() -> None:
    sgd = core_group(SGD, "sgd")
    assert isinstance(sgd, SgdOptions)
    assert (sgd.lr, sgd.momentum) == (0.1, 0.9)
    adamw = core_group(ADAM, "adamw")
    assert isinstance(adamw, AdamOptions)
    assert (adamw.betas, adamw.maximize, adamw.decoupled) == ((0.9, 0.99), True, True)
    assert not core_group(ADAM, "adam").decoupled
    assert core_group({"lr": 0.5}, "sum").lr == 0.5
    with pytest.raises(OptionsError, match="lr: expected a finite number of at least 0, got -1"):
        core_group({**SGD, "lr": -1.0}, "sgd")


def test_groups_without_a_clamp_have_no_bounds() -> None:
    bounded = {**SGD, "clamp": (0.0, 1.0)}
    assert core_clamps(OptionsTable((SGD,), b"")) == []
    assert core_clamps(OptionsTable((SGD, bounded), b"")) == [(-math.inf, math.inf), (0.0, 1.0)]


def test_groups_without_a_norm_have_an_infinite_one() -> None:
    limited = {**SGD, "max_norm": 0.5}
    assert core_max_norms(OptionsTable((SGD,), b"")) == []
    assert core_max_norms(OptionsTable((SGD, limited), b"")) == [math.inf, 0.5]
