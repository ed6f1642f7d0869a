"""The options of the server's optimizer over what local steps have changed, and their old names.

`--lr`, `--momentum` and their like are always those of the steps that learn from samples, whoever
takes them: the server, or with local steps each worker. With local steps the server applies what
the workers' steps have changed, by sgd with `--outer-lr` and its like.

Before, `--lr` was the server's rate in either case, and a worker's was `--inner-lr`. A command line
with such a name is refused. A file of settings has it read, as far as it can be said today.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from leash.ps.errors import UsageError
from leash.ps.options.base import Options, check_not_negative, flag, option
from leash.ps.options.plan import PlanGroup, takes_local_steps

OUTER_OPTIONS: Final = ("outer_lr", "outer_momentum", "outer_nesterov")
DEFAULT_OUTER_LR: Final = 1.0  # adds each difference as it is
# The name of an option of before ▸ today's.
OF_WORKERS: Final = {
    f"inner_{name}": name for name in ("optimizer", "lr", "momentum", "weight_decay")
}
# The server's options of before, with local steps, that its optimizer over differences lacks
# today ▸ their default of before, which does not change what it does.
GONE: Final[dict[str, Any]] = {
    "optimizer": "sgd", "weight_decay": None, "maximize": False, "dampening": 0.0,
    "betas": "0.9,0.999", "eps": None, "amsgrad": False, "lr_decay": 0.0,
    "initial_accumulator_value": 0.0, "lr_schedule": "constant", "lr_step_size": None,
    "lr_gamma": 0.1, "lr_total_updates": None, "lr_min": 0.0, "lr_power": 0.6, "lr_offset": 2.0,
    "warmup_updates": 0, "warmup_start_factor": 1 / 3,
}  # fmt: skip
STILL: Final = ("lr", "momentum", "nesterov")  # those that it has, under names with `outer_`


@dataclass(frozen=True, kw_only=True)
class OuterOptimizerGroup(Options):
    """The options of the server's optimizer over differences."""

    title: ClassVar[str] = "local steps (the server's sgd over what they have changed)"

    outer_lr: float | None = option(
        None,
        "rate at which the server takes over what a worker's local steps have changed; default "
        "with --local-steps: 1, which takes it as it is. Given without --local-steps, each worker "
        "takes one step of its own between two pushes",
    )
    outer_momentum: float = option(0.0, "momentum factor of these changes")
    outer_nesterov: bool = option(
        False,
        "Nesterov momentum; with --optimizer adamw and --outer-momentum 0.9 it is DiLoCo",
    )

    def check(self) -> None:
        super().check()
        check_not_negative(self, "outer_lr", "outer_momentum")
        if self.outer_nesterov and self.outer_momentum == 0:
            raise UsageError("--outer-nesterov: needs an --outer-momentum above 0")


def outer_of(options: Options) -> OuterOptimizerGroup | None:
    """The options of the optimizer over differences; None if workers push gradients."""
    if not isinstance(options, OuterOptimizerGroup):
        return None
    has_local_steps = isinstance(options, PlanGroup) and takes_local_steps(options.local_steps)
    given = any(getattr(options, name) != value for name, value in outer_defaults().items())
    return options if has_local_steps or given else None


def outer_defaults() -> dict[str, Any]:
    """The defaults of the options of the optimizer over differences."""
    return {name: getattr(OuterOptimizerGroup, name) for name in OUTER_OPTIONS}


def renamed_option(name: str) -> str | None:
    """Says how an option of before is written today; None if this is no such option."""
    old = name.removeprefix("--").replace("-", "_")
    if old not in OF_WORKERS:
        return None
    return (
        f"{name}: say {flag(OF_WORKERS[old])} to leash launch or leash server; with --local-steps "
        "it is now that of the workers' own steps. What --lr, --momentum and --nesterov were "
        "there, the server's over their changes, is --outer-lr, --outer-momentum, --outer-nesterov"
    )


def is_of_before(settings: Mapping[str, Any]) -> bool:
    """Whether a file of settings is of before, so that its lr is the server's in any case."""
    if any(name in settings for name in OUTER_OPTIONS):
        return False
    # No person writes the second one by hand: a file with it is a whole config.yaml.
    return not OF_WORKERS.keys().isdisjoint(settings) or "initial_accumulator_value" in settings


def with_names_apart(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the settings of a file of before, with local steps, names that say whose they are.

    Those of the server's optimizer get `outer_` before their names, and those of the workers' lose
    their `inner_`. A file of today, or one without local steps, keeps its names.
    """
    if not is_of_before(settings):
        return dict(settings)
    if not _has_local_steps(settings):
        return {name: value for name, value in settings.items() if name not in OF_WORKERS}
    of_server = (*STILL, *GONE)
    return {
        OF_WORKERS.get(name, f"outer_{name}" if name in of_server else name): value
        for name, value in settings.items()
    }


def with_todays_rates(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the settings of a file, which any release may have written, in today's terms.

    Raises:
        UsageError: the file gives an option under the names of before and of today; or the
            server's optimizer over differences was one that it cannot be today; or the file is a
            server's, which did not know the workers' rate.
    """
    old = next((name for name in settings if name in OF_WORKERS), None)
    new = next((name for name in OUTER_OPTIONS if name in settings), None)
    if old is not None and new is not None:
        raise UsageError(f"{old}: the file says {new}, too; give {OF_WORKERS[old]} instead")
    if not is_of_before(settings) or not _has_local_steps(settings):
        return with_names_apart(settings)
    if old is None:
        raise UsageError(
            "local_steps: this file was written when lr was the server's rate over differences, "
            "and it lacks that of the workers' steps; give the latter as lr, and lr as outer_lr"
        )
    for name, default in GONE.items():
        if settings.get(name, default) != default:
            raise UsageError(
                f"{name} {settings[name]}: in this file it is of the server's optimizer over "
                f"differences, which has only {', '.join(OUTER_OPTIONS)} today; leave it out"
            )
    renamed = with_names_apart(settings)
    return {name: value for name, value in renamed.items() if name.removeprefix("outer_") == name
            or name in OUTER_OPTIONS}  # fmt: skip


def _has_local_steps(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("local_steps", "1")) != "1"
