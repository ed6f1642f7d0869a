"""The options of who waits for whom, of what softens stale updates, and names from before.

`--staleness` once meant two things: how far a worker may be ahead, which is a bound on its lag, and
under policy drop the largest staleness that is applied. It now stands for `--bound`, and under
policy drop for `--max-staleness`. On a command line that is known only when the policy is; in a
file, such as a run's config.yaml, the policy stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal

from leash.ps._core import DelayCompensation, StalenessRate
from leash.ps.errors import UsageError
from leash.ps.options.base import Options, check_not_negative, flag, option
from leash.ps.policy import DROP, Rule, choose_rule

OLD_BOUND: Final = ("staleness", "stale_threshold")
OLD_BOUND_MAX: Final = "staleness_max"
BOUND, BOUND_MAX, MAX_STALENESS = "bound", "bound_max", "max_staleness"

# Kind of compensation ▸ the strength with which its authors trained CIFAR-10.
DEFAULT_DC_LAMBDA: Final = {"constant": 0.04, "adaptive": 2.0}
DEFAULT_POWER: Final = 0.5
DEFAULT_DC_DECAY: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class RuleGroup(Options):
    """The options that choose a policy and its limits."""

    title: ClassVar[str] = "who waits for whom"

    policy: Literal["bsp", "ssp", "asp", "dssp", "backup", "drop"] | None = option(
        None,
        "bsp: all wait for all; ssp: nobody runs further ahead than --bound; asp: nobody waits; "
        "dssp: ssp whose bound follows the workers' speed, up to --bound-max; backup: bsp that "
        "leaves the slowest --backup-workers out; drop: asp that leaves out a gradient staler than "
        "--max-staleness. Without it --bound decides (0 is bsp); with neither it is ssp",
    )
    bound: int | None = option(
        None,
        "the largest lag: how many steps a worker may be ahead of the slowest; ssp's default is 3",
        "--staleness", "--stale-threshold", metavar="STEPS",
    )  # fmt: skip
    bound_max: int | None = option(
        None, "dssp: the bound's upper limit, --bound being the lower; default: 12 more",
        "--staleness-max", metavar="STEPS",
    )  # fmt: skip
    max_staleness: int | None = option(
        None,
        "drop: the largest staleness that is applied: how many updates may come between a worker's "
        "pull and its push (--staleness is another name for it under drop)",
        metavar="UPDATES",
    )
    backup_workers: int | None = option(
        None, "backup: how many workers an update does not wait for; default: 1", metavar="N"
    )
    bound_unit: Literal["clocks", "versions"] = option(
        "clocks",
        "what ssp's bound counts: steps of workers, or the updates since the oldest parameters "
        "that a worker computes with",
    )

    def check(self) -> None:
        super().check()
        _ = self.rule  # making it raises UsageError if the options contradict each other

    @cached_property
    def rule(self) -> Rule:
        """The rule that these options make; worked out once.

        Raises:
            UsageError: the options contradict each other.
        """
        return choose_rule(
            self.policy, self.bound, self.bound_max, self.backup_workers, self.bound_unit,
            self.max_staleness,
        )  # fmt: skip


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


def with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the settings of a file, which any release may have written, to today's names.

    Raises:
        UsageError: the file gives one setting under two names.
    """
    of_bound = MAX_STALENESS if settings.get("policy") == DROP.name else BOUND
    new_names = {**dict.fromkeys(OLD_BOUND, of_bound), OLD_BOUND_MAX: BOUND_MAX}
    renamed: dict[str, Any] = {}
    for name, value in settings.items():
        new_name = new_names.get(name, name)
        if new_name in renamed:
            raise UsageError(f"{name} {value}: the file says {new_name} {renamed[new_name]}, too; "
                             f"give {new_name} alone")  # fmt: skip
        renamed[new_name] = value
    return renamed


def for_drop(words: Sequence[str]) -> list[str]:
    """Puts `--max-staleness` for `--staleness` in a command line whose policy is drop.

    Raises:
        UsageError: the command line gives both.
    """
    new_flag = flag(MAX_STALENESS)
    flags = [word.partition("=")[0] for word in words]
    for old_flag in map(flag, OLD_BOUND):
        if old_flag in flags and new_flag in flags:
            raise UsageError(f"{old_flag}: under --policy drop it is another name for {new_flag}; "
                             f"give {new_flag} alone")  # fmt: skip
    old_flags = [flag(name) for name in OLD_BOUND]
    return [
        new_flag + word.removeprefix(name) if name in old_flags else word
        for word, name in zip(words, flags, strict=True)
    ]
