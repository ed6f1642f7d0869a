"""Options of the server's optimizer for groups of slots: what parameter groups are in torch.

::

    payload of `options`   a msgpack map
        groups         [{option: value, ...}, ...]   1 to 256 of them, each with every option that
                                                     the optimizer has for groups, and maybe a clamp
                                                     and a max_norm
        group_of_slot  binary, one byte for each slot of the layout: the index of its group
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from leash.ps._core import AdagradOptions, AdamOptions, SgdOptions, SumOptions
from leash.ps.errors import OptionsError, PayloadSizeError, shown
from leash.ps.wire.layout import MAX_SLOTS

MAX_OPTION_GROUPS: Final = 256  # a byte names one
# Optimizer ▸ the options that a group may have of its own. What else an optimizer has is the same
# for all slots.
GROUP_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "sgd": ("lr", "weight_decay", "maximize", "momentum", "dampening", "nesterov"),
    "adam": ("lr", "weight_decay", "maximize", "betas", "eps", "amsgrad"),
    "adamw": ("lr", "weight_decay", "maximize", "betas", "eps", "amsgrad"),
    "adagrad": ("lr", "weight_decay", "maximize", "lr_decay", "eps"),
    "sum": ("lr",),
}
FLAGS: Final = ("maximize", "nesterov", "amsgrad")
PAIRS: Final = ("betas", "clamp")
CLAMP: Final = "clamp"  # (least, most): every value is brought into this range after an update
MAX_NORM: Final = "max_norm"  # and then every row is scaled down to this 2-norm
BY_SERVER: Final = (CLAMP, MAX_NORM)  # a group may have these, whatever the optimizer

_LIMITS: Final = {
    "max_str_len": 32, "max_bin_len": MAX_SLOTS, "max_array_len": MAX_OPTION_GROUPS,
    "max_map_len": 16, "max_ext_len": 0,
}  # fmt: skip

GroupValues = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OptionsTable:
    """Groups of options, and which slot goes by which.

    Attributes:
        groups: each with a value for every option of `GROUP_OPTIONS`, and maybe those of
            `BY_SERVER`. Numbers are floats, flags bools, pairs tuples of two floats.
        group_of_slot: for each slot of the layout the index of its group.
    """

    groups: tuple[GroupValues, ...]
    group_of_slot: bytes

    def pack(self) -> bytes:
        """Writes the payload of `options`."""
        groups = [dict(group) for group in self.groups]
        packed: bytes = msgpack.packb({"groups": groups, "group_of_slot": self.group_of_slot})
        return packed

    @classmethod
    def unpack(cls, payload: Any, optimizer: str, slots: int) -> "OptionsTable":
        """Reads and checks such a payload; what the values may be is for `core_group` to say.

        Args:
            payload: the bytes.
            optimizer: the server's.
            slots: how many the layout has.

        Raises:
            PayloadSizeError: it is anything but a table for this optimizer and so many slots.
        """
        try:
            table = msgpack.unpackb(payload, strict_map_key=True, use_list=False, **_LIMITS)
        except (ValueError, msgpack.UnpackException) as error:
            raise PayloadSizeError(f"options: expected a msgpack map: {error}"[:480]) from error
        if type(table) is not dict or table.keys() != {"groups", "group_of_slot"}:
            raise PayloadSizeError(
                f"options: expected groups and group_of_slot, got {shown(table)}"
            )
        groups, group_of_slot = table["groups"], table["group_of_slot"]
        if type(groups) is not tuple or not groups:
            raise PayloadSizeError(f"options.groups: expected a list, got {shown(groups)}")
        for group in groups:
            _check_group(group, optimizer)
        if type(group_of_slot) is not bytes or len(group_of_slot) != slots:
            raise PayloadSizeError(
                f"options.group_of_slot: expected {slots} bytes, got {shown(group_of_slot)}"
            )
        if max(group_of_slot) >= len(groups):
            raise PayloadSizeError(
                f"options.group_of_slot: expected groups below {len(groups)}, "
                f"got {max(group_of_slot)}"
            )
        return cls(groups, group_of_slot)


def _check_group(group: Any, optimizer: str) -> None:
    expected = GROUP_OPTIONS[optimizer]
    if type(group) is not dict or group.keys() - set(BY_SERVER) != set(expected):
        raise PayloadSizeError(
            f"options.groups: expected {', '.join(expected)} of {optimizer}, got {shown(group)}"
        )
    for name, value in group.items():
        is_valid, meaning = _check_of(name)
        if not is_valid(value):
            raise PayloadSizeError(f"options.{name}: expected {meaning}, got {shown(value)}")


def _check_of(name: str) -> tuple[Callable[[Any], bool], str]:
    if name in FLAGS:
        return lambda x: type(x) is bool, "true or false"
    if name in PAIRS:
        return lambda x: type(x) is tuple and [*map(type, x)] == [float, float], "two floats"
    return lambda x: type(x) is float and math.isfinite(x), "a finite float"


def core_group(
    group: GroupValues, optimizer: str
) -> SgdOptions | AdamOptions | AdagradOptions | SumOptions:
    """Makes the core's options for a group.

    Raises:
        OptionsError: a value is one that torch.optim refuses too.
    """
    own = {name: group[name] for name in GROUP_OPTIONS[optimizer]}
    try:
        if optimizer == "sgd":
            return SgdOptions(**own)
        if optimizer == "adagrad":
            return AdagradOptions(**own)
        if optimizer == "sum":
            return SumOptions(**own)
        return AdamOptions(**own, decoupled=optimizer == "adamw")
    except ValueError as error:
        raise OptionsError(str(error)) from error


def core_clamps(table: OptionsTable) -> list[tuple[float, float]]:
    """The range of each group; an empty list if none has one."""
    if not any(CLAMP in group for group in table.groups):
        return []
    return [group.get(CLAMP, (-math.inf, math.inf)) for group in table.groups]


def core_max_norms(table: OptionsTable) -> list[float]:
    """The largest norm of a row of each group; an empty list if none has one."""
    if not any(MAX_NORM in group for group in table.groups):
        return []
    return [group.get(MAX_NORM, math.inf) for group in table.groups]
