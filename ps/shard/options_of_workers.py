"""The options for parameter groups that workers gave: which pushes go by which."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.errors import EvictedError, OptionsError, SupersededError
from leash.ps.options.server import ServerOptions
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import ServedModel
from leash.ps.wire.messages import GroupOptions
from leash.ps.wire.options_table import OptionsTable, core_clamps, core_group, core_max_norms

TABLES_REMEMBERED: Final = 1024  # so many tables of options are known again when they come again


@dataclass(frozen=True, slots=True)
class Given:
    """A worker's newest table, and its number."""

    number: int
    table: OptionsTable


class OptionsOfWorkers:
    """The newest options of each worker, as one shard has them; its engine refuses other pushes.

    A worker sends its options over each data connection before the pushes that go by them, and
    sends them again with what has no answer after a reconnect. What came over a lost connection may
    still arrive late; numbers tell it from what counts.
    """

    def __init__(self, options: ServerOptions, metrics: Metrics, *, tells: bool) -> None:
        """Begins without any.

        Args:
            options: of the server, whose optimizer all have who gave none.
            metrics: which of the events of this shard are written to.
            tells: whether this shard tells of options; one of a run's shards is enough.
        """
        self._options: Final = options
        self._metrics: Final = metrics
        self._tells: Final = tells
        self._given: Final[dict[int, Given]] = {}  # by worker
        self._ids: Final[dict[bytes, int]] = {}  # of the tables that came last, by their bytes
        self._newest_id = 0

    def forget(self, worker: int) -> None:
        """Drops the options of a worker that has left; its next incarnation begins without any."""
        self._given.pop(worker, None)

    def take(self, model: ServedModel, msg: GroupOptions, payload: Any) -> int:
        """Has the worker's pushes applied by these options from now on.

        Returns:
            A number that stands for these options; equal ones of other workers have it too.

        Raises:
            PayloadSizeError: the payload is no table for this model and optimizer.
            OptionsError: the optimizer cannot have these options.
            SupersededError: it is an old copy; newer options have come since.
            EvictedError: the worker is not live.
        """
        before = self._given.get(msg.worker)
        if before is not None and msg.number < before.number:
            raise SupersededError(f"worker {msg.worker}: options of a higher number came since")
        table = OptionsTable.unpack(payload, model.optimizer, len(model.layout.slots))
        if before is not None and msg.number == before.number:
            if table != before.table:
                raise OptionsError(f"options {msg.number}: other ones came under this number")
            return self._id_of(table)  # the worker sent them again, as it has lost the answer
        self._set(model, msg.worker, table)
        self._given[msg.worker] = Given(msg.number, table)
        if self._tells:
            self._metrics.note_options(msg.worker, shown_groups(table), table.group_of_slot)
        return self._id_of(table)

    def _id_of(self, table: OptionsTable) -> int:
        packed = table.pack()
        if packed not in self._ids:
            if len(self._ids) == TABLES_REMEMBERED:
                del self._ids[next(iter(self._ids))]
            self._newest_id += 1
            self._ids[packed] = self._newest_id
        return self._ids[packed]

    def _set(self, model: ServedModel, worker: int, table: OptionsTable) -> None:
        if self._options.delay_compensation != "none" and any(
            group.get("maximize", False) != self._options.maximize for group in table.groups
        ):
            raise OptionsError("maximize: with --delay-compensation all groups go the same way")
        groups = [core_group(group, model.optimizer) for group in table.groups]
        if not model.own:
            return
        try:
            model.shard.set_options(
                worker, groups, list(table.group_of_slot), core_clamps(table),
                core_max_norms(table),
            )  # fmt: skip
        except ValueError as error:
            raise OptionsError(str(error)) from error
        except KeyError as error:
            raise EvictedError(f"worker {worker}: not live; say hello again to go on") from error


def shown_groups(table: OptionsTable) -> list[dict[str, Any]]:
    """The groups for people and for JSON: their options, and how many slots go by them."""
    return [
        {**{name: _shown(value) for name, value in group.items()}, "slots": count}
        for group, count in zip(table.groups, _counts(table), strict=True)
    ]


def _counts(table: OptionsTable) -> Sequence[int]:
    return [table.group_of_slot.count(group) for group in range(len(table.groups))]


def _shown(value: Any) -> Any:
    """The value in a form that JSON has: an infinity is text."""
    if type(value) is not tuple:
        return value
    return [end if math.isfinite(end) else str(end) for end in value]
