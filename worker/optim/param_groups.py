"""Groups of parameters, as PSOptimizer is given them, as torch has them, as the server needs them.

The server's optimizer has one set of options. As long as ``param_groups`` says the same, nothing
travels. Where a group has options of its own, or a scheduler writes into one, a table of all groups
goes to the server before the next step.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Final

from leash.ps.errors import OptionsError, UsageError
from leash.ps.options.server import CHUNK_STEP_KIB
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.options_table import (
    BY_SERVER,
    CLAMP,
    FLAGS,
    GROUP_OPTIONS,
    MAX_NORM,
    MAX_OPTION_GROUPS,
    PAIRS,
    OptionsTable,
    core_group,
)

# The settings of the optimizer that learns from samples, of those that it has: `welcome` tells
# them, and param_groups shows them.
HYPERPARAMETERS: Final = (
    "lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "betas", "eps",
    "amsgrad", "lr_decay", "initial_accumulator_value",
)  # fmt: skip
# Those of the server's optimizer if the learning is an inner optimizer's: param_groups shows them
# instead.
OUTER_HYPERPARAMETERS: Final = ("outer_lr", "outer_momentum", "outer_nesterov")
# Options of torch's optimizers that say how they compute in this process, where none runs.
IMPLEMENTATION: Final = frozenset(
    ("foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay")
)
# Options of optimizers that the server does not have, and of those whose choice it is.
FOREIGN: Final = frozenset(
    ("alpha", "centered", "rho", "lambd", "t0", "etas", "step_sizes", "momentum_decay",
     "beta2_decay", "line_search_fn", *HYPERPARAMETERS)
)  # fmt: skip

_REFUSED_WITH_INNER: Final = FOREIGN | IMPLEMENTATION | {*BY_SERVER, *OUTER_HYPERPARAMETERS}
# The largest chunk of f32 that the core can have, which a mend may name.
_MOST_CHUNK_KIB: Final = (4 << 32) // 1024

Group = Mapping[str, Any]


def named_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Brings what PSOptimizer was given for parameters into one form.

    Args:
        params: pairs of name and tensor, or groups whose ``params`` are such pairs.

    Returns:
        The groups, each with a list of pairs as its ``params``.

    Raises:
        UsageError: a parameter has no name.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    named = [{**group, "params": list(group["params"])} for group in groups]
    for group in named:
        for pair in group["params"]:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
                raise UsageError(
                    "PSOptimizer needs the parameters' names: pass model.named_parameters()"
                )
    return named


def unnamed(group: dict[str, Any]) -> dict[str, Any]:
    """Brings a group into the form that torch takes, with a list of tensors as its ``params``.

    Args:
        group: as `named_groups` gives it.
    """
    return {**group, "params": [tensor for _, tensor in group["params"]]}


def hyperparameters(
    settings: Mapping[str, Any], names: Iterable[str] = HYPERPARAMETERS
) -> dict[str, Any]:
    """Reads hyperparameters from a run's settings.

    Args:
        settings: as the server tells them.
        names: which to read.

    Returns:
        Those that the run has, in the form that torch gives them.
    """
    own = {name: settings[name] for name in names if settings.get(name) is not None}
    if "betas" in own:
        own["betas"] = tuple(float(beta) for beta in own["betas"].split(","))
    return own


class Members:
    """Knows which tensors are in which group: the run has its layout, which does not change."""

    _kept: list[list[int]]

    def keep(self, groups: Sequence[Group]) -> None:
        """Notes the tensors of the optimizer's groups.

        Args:
            groups: its ``param_groups``, as torch has made them.
        """
        self._kept = _members(groups)

    def require_kept(self, groups: Sequence[Group]) -> None:
        """Checks that they are the same.

        Args:
            groups: the optimizer's ``param_groups``.

        Raises:
            UsageError: a tensor was added, removed or replaced.
        """
        if _members(groups) != self._kept:
            raise UsageError(
                "PSOptimizer: the tensors in param_groups were changed, but a run trains the "
                "parameters that it has begun with; to leave one alone, set its requires_grad to "
                "False"
            )


def _members(groups: Sequence[Group]) -> list[list[int]]:
    return [list(map(id, group["params"])) for group in groups]


class InnersGroups(Members):
    """Refuses options in ``param_groups`` where an inner optimizer takes the steps."""

    def __init__(self, settings: Mapping[str, Any], named: Sequence[Group]) -> None:
        """Checks the groups as they were given.

        Args:
            settings: of the run, as the server told them.
            named: the groups as `named_groups` gives them.

        Raises:
            UsageError: a group has an option.
        """
        self.defaults: Final = hyperparameters(settings, OUTER_HYPERPARAMETERS)
        self.follow(named)

    def follow(self, groups: Sequence[Group], *, has_begun: bool = False) -> None:
        """Checks that ``param_groups`` says nothing of its own.

        Args:
            groups: the optimizer's ``param_groups``.
            has_begun: as for `ParamGroups`; of no account here.

        Raises:
            UsageError: a group has an option.
        """
        for index, group in enumerate(groups):
            for name in group.keys() & _REFUSED_WITH_INNER:
                value = group[name]
                if value is None or value is False or value == self.defaults.get(name):
                    continue
                if name in OUTER_HYPERPARAMETERS:
                    raise UsageError(
                        f"PSOptimizer: {_told(index, name, value)}: it is the server's, so start "
                        f"it with --{name.replace('_', '-')} {value}"
                    )
                raise UsageError(
                    f"PSOptimizer: {_told(index, name, value)}: an inner optimizer takes the "
                    "steps; give that one the groups, their options and the schedulers"
                )


class ParamGroups(Members):
    """Turns ``param_groups`` into options for the server's optimizer, and checks what they say."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        named: Sequence[Group],
        layout: Layout,
        chunks: Sequence[Chunk],
        use: Callable[[OptionsTable], None],
    ) -> None:
        """Checks the groups as they were given.

        Args:
            settings: of the server, as it told them.
            named: the groups as `named_groups` gives them.
            layout: of the model.
            chunks: into which the layout is cut.
            use: has the server apply the next steps by a table.

        Raises:
            UsageError: a group has an option that it cannot have.
        """
        self.defaults: Final = hyperparameters(settings)
        self._settings: Final = settings
        self._optimizer: Final[str] = settings["optimizer"]
        # What the optimizer has once, and not for each group.
        self._fixed: Final = self.defaults.keys() - set(GROUP_OPTIONS[self._optimizer])
        self._use: Final = use
        self._layout: Final = layout
        self._chunks: Final = chunks
        self._divided: Final = layout.divided(chunks)
        if len(named) > MAX_OPTION_GROUPS:
            raise UsageError(f"PSOptimizer: {len(named)} groups, of at most {MAX_OPTION_GROUPS}")
        group_of = {name: i for i, group in enumerate(named) for name, _ in group["params"]}
        # Buffers are values that nothing optimizes; the byte of their slots is not looked at.
        self._group_of_slot: Final = bytes(group_of.get(slot.name, 0) for slot in layout.slots)
        self._server: Final = self._plain({**self.defaults, "params": ()}, 0)
        given = [{**self.defaults, **group} for group in named]
        first = tuple(self._plain(group, i) for i, group in enumerate(given))
        self._current = first
        for index, (group, values) in enumerate(zip(given, first, strict=True)):
            self._check(group, values, index)
        if any(group != self._server for group in first):
            self._use(OptionsTable(first, self._group_of_slot))

    def follow(self, groups: Sequence[Group], *, has_begun: bool = False) -> None:
        """Has the next step go by what ``param_groups`` says now.

        Args:
            groups: the optimizer's ``param_groups``.
            has_begun: whether gradients of this step have been sent already.

        Raises:
            UsageError: something was changed that cannot be, or not at this time.
        """
        now = tuple(self._plain(group, index) for index, group in enumerate(groups))
        for index, group in enumerate(groups):
            self._check_names(group, index)
        if now == self._current:
            return
        name, index = next(
            (name, index)
            for index, (before, group) in enumerate(zip(self._current, now, strict=True))
            for name in {**before, **group}
            if before.get(name) != group.get(name)
        )
        if has_begun:
            raise UsageError(
                f"PSOptimizer: {_told(index, name, now[index].get(name))} was set after gradients "
                "of this step had been sent; change options (and call scheduler.step()) after "
                "step() and before begin_step()"
            )
        for index, (group, values) in enumerate(zip(groups, now, strict=True)):
            self._check(group, values, index)
            self._check_change(index, self._current[index], values)
        self._use(OptionsTable(now, self._group_of_slot))
        self._current = now

    def _plain(self, group: Group, index: int) -> dict[str, Any]:
        """The options of a group as the server needs them: numbers that are floats, and so on."""
        names = GROUP_OPTIONS[self._optimizer]
        values: dict[str, Any] = {}
        for name in (*names, *(name for name in BY_SERVER if group.get(name) is not None)):
            value = group[name]
            try:
                if name in FLAGS:
                    values[name] = bool(value)
                elif name in PAIRS:
                    first, second = value
                    values[name] = (float(first), float(second))
                else:
                    values[name] = float(value)
            except (TypeError, ValueError) as error:
                what = "two numbers" if name in PAIRS else "a number"
                raise UsageError(
                    f"PSOptimizer: {_told(index, name, value)}: give {what}"
                ) from error
        return values

    # What a group may say.

    def _check(self, group: Group, values: Group, index: int) -> None:
        """Raises UsageError for options that the server's optimizer cannot have."""
        self._check_names(group, index)
        for name in ("amsgrad", "momentum"):
            if values.get(name) and not self._server[name]:
                value = "" if name == "amsgrad" else f" {values[name]:g}"
                raise UsageError(
                    f"PSOptimizer: {_told(index, name, values[name])}, for which the server has "
                    f"no buffer: start it with {_flag(name)}{value}"
                )
        try:
            core_group(values, self._optimizer)
        except OptionsError as error:
            raise UsageError(f"PSOptimizer: param_groups[{index}]: {error}") from error
        least, most = values.get(CLAMP, (0.0, 0.0))
        if not least <= most:
            raise UsageError(f"PSOptimizer: {_told(index, CLAMP, values[CLAMP])}: give a range")
        if MAX_NORM in values:
            self._check_max_norm(group[MAX_NORM], values[MAX_NORM], index)

    def _check_max_norm(self, given: Any, max_norm: float, index: int) -> None:
        if isinstance(given, bool) or not 0 <= max_norm < math.inf:
            raise UsageError(
                f"PSOptimizer: {_told(index, MAX_NORM, given)}: give a number of at least 0, or "
                "None for no limit"
            )
        if not self._divided:
            return
        own = {number for number, i in enumerate(self._group_of_slot) if i == index}
        own -= {n for n, slot in enumerate(self._layout.slots) if slot.kind != "parameter"}
        divided = own & self._divided
        if not divided:
            return
        slot = self._layout.slots[min(divided)]
        kib = _undividing_kib(self._layout, self._chunks, divided)
        mend = f"start the server with --chunk-kib {kib}" if kib else "leave it out"
        raise UsageError(
            f"PSOptimizer: {_told(index, MAX_NORM, given)}: the server updates {slot.name} in "
            f"chunks that do not end with its rows (of {slot.row_nbytes} bytes), so it cannot know "
            f"their norms: {mend}"
        )

    def _check_names(self, group: Group, index: int) -> None:
        for name in self._fixed:
            if group[name] != self.defaults[name]:
                raise UsageError(
                    f"PSOptimizer: {_told(index, name, group[name])}, where {self._optimizer} has "
                    f"one for all groups: leave it out, or start the server with {_flag(name)}"
                )
        for name in (IMPLEMENTATION & group.keys()) | (
            FOREIGN & group.keys() - self.defaults.keys()
        ):
            if group[name] is None or group[name] is False:
                continue
            if name in IMPLEMENTATION:
                mend = "the optimizer runs on the server, which has no such choice: leave it out"
            else:
                mend = (
                    f"is no option of {self._optimizer}, the server's optimizer: leave it out, or "
                    "start the server with another --optimizer"
                )
            raise UsageError(f"PSOptimizer: {_told(index, name, group[name])}: {mend}")

    def _check_change(self, index: int, before: Group, now: Group) -> None:
        """Raises UsageError for a change that cannot be in the middle of a run."""
        if now["lr"] != before["lr"] and (schedule := self._schedule()):
            raise UsageError(
                f"PSOptimizer: {_told(index, 'lr', now['lr'])} was set, but the server has "
                f"{schedule}: leave one of the two out"
            )
        if now.get("amsgrad") != before.get("amsgrad"):
            raise UsageError(
                f"PSOptimizer: {_told(index, 'amsgrad', now['amsgrad'])} was set, which cannot "
                "change in a run: give it in the groups when PSOptimizer is made"
            )
        if now.get("momentum") and not before["momentum"] and now["dampening"]:
            raise UsageError(
                f"PSOptimizer: {_told(index, 'momentum', now['momentum'])} was set after steps "
                "without momentum; that needs dampening 0"
            )

    def _schedule(self) -> str:
        """The option that gave the server a schedule of its own; empty without one."""
        if self._settings.get("lr_schedule", "constant") != "constant":
            return f"--lr-schedule {self._settings['lr_schedule']}"
        updates = self._settings.get("warmup_updates")
        return f"--warmup-updates {updates}" if updates else ""


def _undividing_kib(layout: Layout, chunks: Sequence[Chunk], divided: Set[int]) -> int | None:
    """A size for chunks that divides no row of these slots, nor of others that are whole now.

    Returns:
        The size; None if chunks cannot be so large.
    """
    tolerated = layout.divided(chunks) - divided
    least = max(*(chunk.nbytes for chunk in chunks), *(layout.slots[n].row_nbytes for n in divided))
    kib = -(-least // (1024 * CHUNK_STEP_KIB)) * CHUNK_STEP_KIB
    while layout.divided(layout.cut(1024 * kib)) - tolerated:
        kib *= 2
    return kib if kib <= _MOST_CHUNK_KIB else None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _told(index: int, name: str, value: Any) -> str:
    return f"param_groups[{index}]: {name}={value!r}"
