"""The options of who waits for whom."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from leash.ps.options.base import Options, option
from leash.ps.policy import Rule, choose_rule


@dataclass(frozen=True, kw_only=True)
class RuleGroup(Options):
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
        "that somebody computes with",
    )

    def check(self) -> None:
        super().check()
        _ = self.rule  # which says what is wrong with it

    @cached_property
    def rule(self) -> Rule:
        """The rule that these options come to: worked out once, and then kept.

        Raises:
            UsageError: they contradict each other.
        """
        return choose_rule(
            self.policy, self.bound, self.bound_max, self.backup_workers, self.bound_unit,
            self.max_staleness,
        )  # fmt: skip
