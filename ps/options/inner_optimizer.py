"""The options of the optimizer with which a worker takes its own steps between two pushes."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.base import Options, check_not_negative, flag, option
from leash.ps.options.plan import takes_local_steps

INNER_OPTIONS: Final = (
    "inner_optimizer", "inner_lr", "inner_momentum", "inner_weight_decay"
)  # fmt: skip
# The defaults of torch.optim. It has none for sgd's rate, so that one is Leash's default.
DEFAULT_INNER_LR: Final = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001}
DEFAULT_INNER_WEIGHT_DECAY: Final = {"sgd": 0.0, "adam": 0.0, "adamw": 0.01}


@dataclass(frozen=True, kw_only=True)
class InnerOptimizerGroup(Options):
    """The options of a worker's own optimizer."""

    title: ClassVar[str] = "local steps (each worker's own optimizer, of torch.optim)"

    inner_optimizer: Literal["sgd", "adam", "adamw"] = option(
        "sgd",
        "takes a worker's steps between two pushes; the server's --optimizer applies their sum",
    )
    inner_lr: float | None = option(
        None, "learning rate of these steps; default: 0.01 in sgd, 0.001 in adam and adamw"
    )
    inner_momentum: float = option(0.0, "sgd: momentum factor")
    inner_weight_decay: float | None = option(
        None, "weight decay of these steps; default: 0.01 in adamw, otherwise 0"
    )

    def check(self) -> None:
        super().check()
        check_not_negative(self, "inner_lr", "inner_momentum", "inner_weight_decay")
        if self.inner_momentum and self.inner_optimizer != "sgd":
            raise UsageError(
                f"--inner-momentum: --inner-optimizer {self.inner_optimizer} has no such option; "
                "leave it out, or give --inner-optimizer sgd"
            )

    @property
    def chosen_inner_lr(self) -> float:
        """The rate of these steps: as given, or the default of their optimizer."""
        default = DEFAULT_INNER_LR[self.inner_optimizer]
        return default if self.inner_lr is None else self.inner_lr

    @property
    def chosen_inner_weight_decay(self) -> float:
        """The weight decay of these steps: as given, or the default of their optimizer."""
        default = DEFAULT_INNER_WEIGHT_DECAY[self.inner_optimizer]
        return default if self.inner_weight_decay is None else self.inner_weight_decay


def check_inner_belongs(options: InnerOptimizerGroup, local_steps: str) -> None:
    """Raises UsageError for an option of the inner optimizer in a run that has none.

    Args:
        local_steps: of the run, as `--local-steps` takes it.
    """
    if takes_local_steps(local_steps):
        return
    for name in INNER_OPTIONS:
        if getattr(options, name) != getattr(InnerOptimizerGroup, name):
            raise UsageError(f"{flag(name)}: needs local steps; leave it out, or start the run "
                             "with --local-steps N, such as 8")  # fmt: skip
