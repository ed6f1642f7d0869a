"""The options of who waits for whom, and the names that they had before.

`--staleness` once meant two things: how far a worker may be ahead, which is a bound on its lag, and
under policy drop the largest staleness that is applied. It now stands for `--bound`, and under
policy drop for `--max-staleness`. On a command line that is known only when the policy is; in a
file, such as a run's config.yaml, the policy stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.base import Options, flag, option
from leash.ps.policy import DROP, Rule, choose_rule

OLD_BOUND: Final = ("staleness", "stale_threshold")
OLD_BOUND_MAX: Final = "staleness_max"
BOUND, BOUND_MAX, MAX_STALENESS = "bound", "bound_max", "max_staleness"


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
