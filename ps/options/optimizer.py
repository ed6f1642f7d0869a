"""The options of the optimizer that learns from samples, and the server's form for the core."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from leash.ps._core import AdagradOptions, AdamOptions, Schedule, SgdOptions, SumOptions
from leash.ps.errors import UsageError
from leash.ps.options.base import Options, check_not_negative, check_positive, flag, option
from leash.ps.options.outer_optimizer import DEFAULT_OUTER_LR, OuterOptimizerGroup, outer_of

CoreOptions: TypeAlias = SgdOptions | AdamOptions | AdagradOptions | SumOptions

# Optimizer ▸ its own options. All have lr too, and all but `sum` weight_decay and maximize.
OPTIONS_OF: Final[dict[str, tuple[str, ...]]] = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adam": ("betas", "eps", "amsgrad"),
    "adamw": ("betas", "eps", "amsgrad"),
    "adagrad": ("lr_decay", "initial_accumulator_value", "eps"),
    "sum": (),
}
# Schedule ▸ the options that it has.
SCHEDULE_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "constant": (),
    "step": ("lr_step_size", "lr_gamma"),
    "cosine": ("lr_total_updates", "lr_min"),
    "power": ("lr_power", "lr_offset"),
}
# The defaults of torch.optim where they differ between optimizers.
DEFAULT_WEIGHT_DECAY: Final = {"sgd": 0.0, "adam": 0.0, "adamw": 0.01, "adagrad": 0.0, "sum": 0.0}
DEFAULT_EPS: Final = {"adam": 1e-8, "adamw": 1e-8, "adagrad": 1e-10}
DEFAULT_LR: Final = 0.01
# Of the workers' own steps; the others have DEFAULT_LR there, too.
DEFAULT_LOCAL_LR: Final = {"adam": 0.001, "adamw": 0.001}


@dataclass(frozen=True, kw_only=True)
class OptimizerGroup(Options):
    """The options of the optimizer that learns from samples, and of its learning rate."""

    title: ClassVar[str] = (
        "optimizer (on the server, or with local steps in each worker; formulas of torch.optim)"
    )

    optimizer: Literal["sgd", "adam", "adamw", "adagrad", "sum"] = option(
        "sgd",
        "which one; sum is none: the parameters are sums of what is pushed, kept by (1 - lr) w + "
        "lr (sum of a bsp step's pushes, or one push)",
    )
    lr: float | None = option(
        None,
        "learning rate for the gradient of one worker's batch. Default: 0.01; of adam and adamw "
        "with --local-steps 0.001",
    )
    weight_decay: float | None = option(
        None, "weight decay; adamw's is decoupled, and 0.01 unless given; the others' is L2, and 0"
    )
    maximize: bool = option(False, "go up along the gradient")
    momentum: float = option(0.0, "sgd: momentum factor")
    dampening: float = option(0.0, "sgd: dampening of the momentum")
    nesterov: bool = option(False, "sgd: Nesterov momentum")
    betas: str = option("0.9,0.999", "adam, adamw: decay of the two averages", metavar="B1,B2")
    eps: float | None = option(
        None, "added to the denominator; default: 1e-8 in adam and adamw, 1e-10 in adagrad"
    )
    amsgrad: bool = option(False, "adam, adamw: divide by the largest average so far")
    lr_decay: float = option(0.0, "adagrad: decay of the learning rate")
    initial_accumulator_value: float = option(0.0, "adagrad: where the sum of squares begins")
    lr_schedule: Literal["constant", "step", "cosine", "power"] = option(
        "constant",
        "how the learning rate goes with the server's updates t: step multiplies it by --lr-gamma "
        "every --lr-step-size, cosine brings it down to --lr-min in --lr-total-updates, power is "
        "lr (t + --lr-offset)^-(--lr-power)",
    )
    lr_step_size: int | None = option(None, "step: updates between two steps", metavar="UPDATES")
    lr_gamma: float = option(0.1, "step: what one step multiplies by")
    lr_total_updates: int | None = option(
        None, "cosine: updates from the end of the warm-up to its lowest", metavar="UPDATES"
    )
    lr_min: float = option(0.0, "cosine: where it ends, and stays")
    lr_power: float = option(
        0.6, "power: the exponent; stochastic approximation wants it above 0.5, at most 1"
    )
    lr_offset: float = option(2.0, "power: what is added to the count of updates, at least 1")
    warmup_updates: int = option(
        0, "rise linearly to --lr over this many updates; the schedule begins after them",
        metavar="UPDATES",
    )  # fmt: skip
    warmup_start_factor: float = option(1 / 3, "the part of --lr that the warm-up begins with")
    lr_scaling: Literal["linear", "none"] | None = option(
        None,
        "bsp makes one update of k gradients: linear multiplies its learning rate by k "
        "(Goyal et al. 2017), none leaves it, as one process on the joint batch would. Default: "
        "linear; with --local-steps none, the mean of the workers' results (see --outer-lr)",
    )
    nonfinite: Literal["raise", "skip", "apply"] = option(
        "raise",
        "a chunk of gradient with a NaN or an infinity in it: end its worker with an error, "
        "leave the chunk out, or apply it all the same",
    )

    def check(self) -> None:
        super().check()
        _check_belongs(self, OPTIONS_OF, "optimizer")
        _check_belongs(self, SCHEDULE_OPTIONS, "lr_schedule")
        check_not_negative(
            self, "lr", "weight_decay", "momentum", "eps", "lr_decay", "initial_accumulator_value",
            "lr_gamma", "lr_min", "lr_power", "warmup_updates",
        )  # fmt: skip
        check_positive(self, "lr_step_size", "lr_total_updates")
        if not math.isfinite(self.dampening):
            raise UsageError(f"--dampening {self.dampening}: give a finite number")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise UsageError("--nesterov: needs a --momentum above 0, and no --dampening")
        parse_betas(self.betas)
        self._check_sum()
        self._check_schedule()
        if outer_of(self) is not None:
            self._check_beside_outer()

    def _check_beside_outer(self) -> None:
        """Refuses what only an optimizer on the server has, if the workers take the steps."""
        why = "with --local-steps or an --outer option the workers take the steps"
        if self.optimizer == "sum":
            raise UsageError(f"--optimizer sum: {why}, and sum takes none; leave one of them out")
        for name in ("lr_schedule", "warmup_updates"):
            if _is_given(self, name):
                raise UsageError(f"{flag(name)}: {why}, whose rate has no schedule; leave it out")
        if self.lr_scaling == "linear":
            raise UsageError(f"--lr-scaling linear: {why}; to add up the changes of N workers, "
                             "give --outer-lr N")  # fmt: skip

    def _check_sum(self) -> None:
        if self.optimizer != "sum":
            return
        for name in ("weight_decay", "maximize"):
            if _is_given(self, name):
                raise UsageError(f"{flag(name)}: --optimizer sum does not descend; leave it out")
        if self.lr is not None and self.lr > 1:
            raise UsageError(f"--lr {self.lr}: --optimizer sum takes 0 to 1; 1 is the sum itself")

    def _check_schedule(self) -> None:
        if self.lr_schedule == "step" and self.lr_step_size is None:
            raise UsageError("--lr-schedule step: give --lr-step-size too")
        if self.lr_schedule == "cosine" and self.lr_total_updates is None:
            raise UsageError("--lr-schedule cosine: give --lr-total-updates too")
        if not 1 <= self.lr_offset < math.inf:
            raise UsageError(f"--lr-offset {self.lr_offset}: give a number of at least 1")
        if not 0 < self.warmup_start_factor <= 1:
            raise UsageError(f"--warmup-start-factor {self.warmup_start_factor}: give a number "
                             "above 0, at most 1")  # fmt: skip
        if self.warmup_updates == 0 and _is_given(self, "warmup_start_factor"):
            raise UsageError("--warmup-start-factor: needs --warmup-updates")


def parse_betas(text: str) -> tuple[float, float]:
    """``"0.9,0.999"`` ▸ (0.9, 0.999).

    Raises:
        UsageError: not two numbers from 0 to below 1.
    """
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first = second = -1.0
    if 0 <= first < 1 and 0 <= second < 1:
        return first, second
    raise UsageError(f"--betas {text}: give two numbers from 0 to below 1, such as 0.9,0.999")


Optimizing = TypeVar("Optimizing", bound=OptimizerGroup)


def with_rates(options: Optimizing) -> Optimizing:
    """Fills in `lr`, `lr_scaling` and `outer_lr` where they were left out."""
    outer = outer_of(options)
    default = DEFAULT_LOCAL_LR.get(options.optimizer, DEFAULT_LR) if outer else DEFAULT_LR
    changes: dict[str, Any] = {
        "lr": default if options.lr is None else options.lr,
        "lr_scaling": options.lr_scaling or ("none" if outer else "linear"),
    }
    if outer is not None:
        changes["outer_lr"] = DEFAULT_OUTER_LR if outer.outer_lr is None else outer.outer_lr
    return replace(options, **changes)


def optimizer_on_server(options: OptimizerGroup) -> str:
    """The name of the optimizer that the server runs: sgd, where the workers take the steps."""
    return options.optimizer if outer_of(options) is None else "sgd"


def learning_rate(options: OptimizerGroup) -> float:
    """The learning rate of the steps that learn from samples; a schedule begins with it."""
    lr = with_rates(options).lr
    assert lr is not None
    return lr


def core_options(options: OptimizerGroup) -> CoreOptions:
    """Makes the core's form of the server's optimizer; ValueError for what torch refuses too."""
    if (outer := outer_of(with_rates(options))) is not None:
        assert outer.outer_lr is not None
        return SgdOptions(
            lr=outer.outer_lr, momentum=outer.outer_momentum, nesterov=outer.outer_nesterov
        )
    common = {"lr": learning_rate(options), "weight_decay": _weight_decay(options)}
    name = options.optimizer
    if name == "sum":
        return SumOptions(learning_rate(options))
    if name == "sgd":
        return SgdOptions(
            **common, momentum=options.momentum, dampening=options.dampening,
            nesterov=options.nesterov, maximize=options.maximize,
        )  # fmt: skip
    if name == "adagrad":
        return AdagradOptions(
            **common, eps=_eps(options), lr_decay=options.lr_decay, maximize=options.maximize,
            initial_accumulator_value=options.initial_accumulator_value,
        )  # fmt: skip
    return AdamOptions(
        **common, betas=parse_betas(options.betas), eps=_eps(options), amsgrad=options.amsgrad,
        maximize=options.maximize, decoupled=name == "adamw",
    )  # fmt: skip


def core_schedule(options: OptimizerGroup) -> Schedule:
    """Makes the core's form of the schedule of the learning rate."""
    return Schedule(
        options.lr_schedule,
        step_size=options.lr_step_size or 1,
        gamma=options.lr_gamma,
        total_updates=options.lr_total_updates or 1,
        minimum=options.lr_min,
        warmup_updates=options.warmup_updates,
        warmup_start_factor=options.warmup_start_factor,
        power=options.lr_power,
        offset=options.lr_offset,
    )


def optimizer_settings(options: OptimizerGroup) -> dict[str, Any]:
    """The options as `welcome` and `state` send them: None for one that the choice lacks."""
    own = (*OPTIONS_OF[options.optimizer], *SCHEDULE_OPTIONS[options.lr_schedule])
    chosen = {name for names in OPTIONS_OF.values() for name in names}
    chosen.update(name for names in SCHEDULE_OPTIONS.values() for name in names)
    options = with_rates(options)
    settings = {
        f.name: getattr(options, f.name) if f.name in own or f.name not in chosen else None
        for f in fields(OptimizerGroup)
    }
    if settings["eps"] is None and "eps" in own:
        settings["eps"] = _eps(options)
    outer = outer_of(options)
    of_server = {
        f.name: None if outer is None else getattr(outer, f.name)
        for f in fields(OuterOptimizerGroup)
    }
    return {**settings, **of_server, "weight_decay": _weight_decay(options)}


def _weight_decay(options: OptimizerGroup) -> float:
    default = DEFAULT_WEIGHT_DECAY[options.optimizer]
    return default if options.weight_decay is None else options.weight_decay


def _eps(options: OptimizerGroup) -> float:
    return DEFAULT_EPS[options.optimizer] if options.eps is None else options.eps


def _is_given(options: OptimizerGroup, name: str) -> bool:
    default = next(f.default for f in fields(OptimizerGroup) if f.name == name)
    return bool(getattr(options, name) != default)


def _check_belongs(options: OptimizerGroup, table: dict[str, tuple[str, ...]], choice: str) -> None:
    """Raises UsageError for an option that was given but belongs to another choice."""
    chosen = getattr(options, choice)
    for name in dict.fromkeys(name for names in table.values() for name in names):
        if name not in table[chosen] and _is_given(options, name):
            others = " or ".join(other for other, names in table.items() if name in names)
            raise UsageError(f"{flag(name)}: {flag(choice)} {chosen} has no such option; leave it "
                             f"out, or give {flag(choice)} {others}")  # fmt: skip
