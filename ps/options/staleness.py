"""The options that soften stale updates, and their form for the core."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from leash.ps._core import DelayCompensation, StalenessRate
from leash.ps.errors import UsageError
from leash.ps.options.base import Options, check_not_negative, option
from leash.ps.policy import Rule

# Kind of compensation ▸ the strength with which its authors trained CIFAR-10.
DEFAULT_DC_LAMBDA: Final = {"constant": 0.04, "adaptive": 2.0}
DEFAULT_POWER: Final = 0.5
DEFAULT_DC_DECAY: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class StalenessGroup(Options):
    """The options that soften stale updates."""

    title: ClassVar[str] = "stale updates, softened (under policies that have any)"

    staleness_lr: Literal["none", "inverse", "poly"] = option(
        "none",
        "learning rate of a push that is τ updates stale: inverse divides it by max(1, τ) (Zhang "
        "et al. 2016), poly by (1 + τ)^α (Xie et al. 2019)",
    )
    staleness_power: float | None = option(
        None, f"poly: the power α; default: {DEFAULT_POWER}", metavar="ALPHA"
    )
    delay_compensation: Literal["none", "constant", "adaptive"] = option(
        "none",
        "sgd: correct a stale gradient for what the parameters have changed since (DC-ASGD, Zheng "
        "et al. 2017). The server keeps a copy of the parameters for each live worker: workers × "
        "model in memory; adaptive one more",
    )
    dc_lambda: float | None = option(
        None, "strength of the compensation; default: 0.04 constant, 2.0 adaptive",
        metavar="LAMBDA",
    )  # fmt: skip
    dc_decay: float | None = option(
        None, f"adaptive: decay of the mean square of the gradients; default: {DEFAULT_DC_DECAY}",
        metavar="M",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_not_negative(self, "staleness_power", "dc_lambda", "dc_decay")
        if self.staleness_power is not None and self.staleness_lr != "poly":
            raise UsageError("--staleness-power: needs --staleness-lr poly")
        if self.dc_lambda is not None and self.delay_compensation == "none":
            raise UsageError("--dc-lambda: needs --delay-compensation constant or adaptive")
        if self.dc_decay is None:
            return
        if self.delay_compensation != "adaptive":
            raise UsageError("--dc-decay: needs --delay-compensation adaptive")
        if self.dc_decay >= 1:
            raise UsageError(f"--dc-decay {self.dc_decay}: give a number from 0 to below 1")


UNSOFTENED: Final = StalenessGroup()


def check_softens(options: StalenessGroup, optimizer: str, rule: Rule) -> None:
    """Raises UsageError for options that do not go with this optimizer or this policy."""
    given = [
        (name, value)
        for name, value in (
            ("--staleness-lr", options.staleness_lr),
            ("--delay-compensation", options.delay_compensation),
        )
        if value != "none"
    ]
    for name, value in given:
        if rule.policy.average:
            raise UsageError(f"{name} {value}: nothing is stale under {rule}; leave it out, or "
                             "give --policy ssp or asp")  # fmt: skip
    if options.delay_compensation != "none" and optimizer != "sgd":
        raise UsageError(f"--delay-compensation {options.delay_compensation}: corrects sgd alone, "
                         f"not {optimizer}; leave it out, or give --optimizer sgd")  # fmt: skip


def core_staleness_rate(options: StalenessGroup) -> StalenessRate:
    """Makes the core's form of `--staleness-lr`."""
    power = DEFAULT_POWER if options.staleness_power is None else options.staleness_power
    return StalenessRate(options.staleness_lr, power=power)


def core_compensation(options: StalenessGroup) -> DelayCompensation:
    """Makes the core's form of `--delay-compensation`."""
    kind = options.delay_compensation
    strength = options.dc_lambda
    if strength is None:
        strength = DEFAULT_DC_LAMBDA.get(kind, 0.0)
    decay = DEFAULT_DC_DECAY if options.dc_decay is None else options.dc_decay
    return DelayCompensation(kind, strength=strength, decay=decay)
