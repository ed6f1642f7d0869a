"""The options for parameter groups that workers gave: which pushes go by which."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.errors import EvictedError, MissingOptionsError, OptionsError, SupersededError
from leash.ps.options.server import ServerOptions
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import ServedModel
from leash.ps.wire.messages import GroupOptions, Push, PushPull
from leash.ps.wire.options_table import OptionsTable, core_clamps, core_group, core_max_norms


@dataclass(frozen=True, slots=True)
class Given:
    """A worker's newest table, and its number."""

    number: int
    table: OptionsTable


class OptionsOfWorkers:
    """The newest options of each worker, as one shard has them; refuses pushes that go by others.

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
        # Whoever was the first with a push of the newest step, and the options of that push.
        self._newest: tuple[int, int, OptionsTable | None] = (0, 0, None)
        self._has_told_difference = False

    def forget(self, worker: int) -> None:
        """Drops the options of a worker that has left; its next incarnation begins without any."""
        self._given.pop(worker, None)

    def take(self, model: ServedModel, msg: GroupOptions, payload: Any) -> None:
        """Has the worker's pushes applied by these options from now on.

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
            return  # the worker sent them again, since it has lost the answer
        self._set(model, msg.worker, table)
        self._given[msg.worker] = Given(msg.number, table)
        if self._tells:
            self._metrics.note_options(msg.worker, shown_groups(table), table.group_of_slot)

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

    def require(self, model: ServedModel, msg: PushPull | Push, *, averages: bool) -> None:
        """Refuses a push that is to be applied by other options than this worker's newest.

        Args:
            model: what is trained.
            msg: the push, which may be of several chunks.
            averages: whether the policy takes means, which go by the options of one worker.

        Raises:
            MissingOptionsError: the shard does not have those options, or newer ones.
        """
        if not self._given and msg.table == 0:
            return
        given = self._given.get(msg.worker)
        number, table = (0, None) if given is None else (given.number, given.table)
        if msg.table != number:
            if _is_repeated(model, msg):
                return
            raise MissingOptionsError(
                f"worker {msg.worker}, step {msg.step}: goes by options {msg.table}, the newest "
                f"are {number}"
            )
        if averages and self._tells and msg.chunk - getattr(msg, "chunks", 1) < model.own[0].index:
            self._compare(msg, table)

    def _compare(self, msg: PushPull | Push, table: OptionsTable | None) -> None:
        """Compares with the options of whoever was the first to push the last chunk of the step."""
        step, worker, others = self._newest
        if msg.step > step:
            self._newest = (msg.step, msg.worker, table)
        elif msg.step == step and table != others and not self._has_told_difference:
            self._has_told_difference = True
            self._metrics.note_different_options(msg.step, sorted((worker, msg.worker)))


def _is_repeated(model: ServedModel, msg: PushPull | Push) -> bool:
    """Whether every chunk has taken this step, so that it is answered and not applied again."""
    chunks = range(msg.chunk, msg.chunk - getattr(msg, "chunks", 1), -1)
    try:
        clocks = [model.shard.clock(model.chunk(chunk).index, msg.worker) for chunk in chunks]
    except KeyError:
        return True  # not live: the push is refused for that
    return all(msg.step <= clock for clock in clocks)


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
