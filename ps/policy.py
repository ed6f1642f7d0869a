"""The policies as one table: who waits for whom, and which gradients count.

| policy | the reply to the push for step c goes out when | the update is                      |
| ------ | ---------------------------------------------- | ---------------------------------- |
| bsp    | all clocks ≥ c (bound 0)                       | the sample-weighted mean of a step |
| ssp    | the smallest clock ≥ c − bound                 | applied on arrival                 |
| asp    | at once                                        | applied on arrival                 |
| dssp   | as ssp, with a bound that moves between two    | applied on arrival                 |
| backup | all but b live workers have sent a gradient of | the sample-weighted mean of those; |
|        | the same version, or if this one is staler     | a staler gradient is dropped       |
| drop   | at once                                        | applied on arrival, or dropped if  |
|        |                                                | its staleness is beyond a limit    |

| policy | paper                                                                                 |
| ------ | ------------------------------------------------------------------------------------- |
| bsp    | Valiant 1990, "A Bridging Model for Parallel Computation"                             |
| ssp    | Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel       |
|        | Parameter Server", section 3                                                          |
| asp    | Recht et al. 2011, "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic        |
|        | Gradient Descent", there without a server                                             |
| dssp   | Zhao et al. 2019, "Dynamic Stale Synchronous Parallel Distributed Training for Deep   |
|        | Learning", algorithms 1 and 2                                                         |
| backup | Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 3                 |
| drop   | Maranjyan et al. 2025, "Ringmaster ASGD: The First Asynchronous SGD with Optimal Time |
|        | Complexity", algorithm 4; its threshold is this limit plus 1                          |

A bound may count versions of the chunk instead of clocks: csrc/core/admission/admission.h says what
that guarantees. The C++ core decides, for each chunk by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from leash.ps import _core
from leash.ps.errors import UsageError

DEFAULT_BOUND: Final = 3
DEFAULT_DYNAMIC_STEPS: Final = (
    12  # how far dssp's upper limit is above its lower one, as in the paper
)
DEFAULT_BACKUP_WORKERS: Final = 1
MAX_DYNAMIC_STEPS: Final = 1024  # the core takes no more
# No run reaches this bound, so it means asp, as users of the SSP demo mean it.
UNREACHABLE_BOUND: Final = 10_000
MAX_COUNT: Final = (1 << 31) - 1
CLOCKS: Final = "clocks"
VERSIONS: Final = "versions"
# The warning for a run whose bound counts versions.
MAY_STALL: Final = (
    "a bound in versions is kept for each chunk by itself, so with several chunks workers may come "
    "to wait for one another for ever; take --bound-unit clocks, or one chunk (--chunk-kib of "
    "leash server)"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Which replies wait, and how gradients become an update."""

    name: str
    paper: str
    bounded: bool = False  # has a bound above 0 that its user chooses
    average: bool = False  # one update is the mean of several workers' gradients
    drops: bool = False  # the server answers some gradients without applying them


BSP: Final = Policy("bsp", "Valiant 1990", average=True)
SSP: Final = Policy("ssp", "Ho et al. 2013", bounded=True)
ASP: Final = Policy("asp", "Recht et al. 2011")
DSSP: Final = Policy("dssp", "Zhao et al. 2019", bounded=True)
BACKUP: Final = Policy("backup", "Chen et al. 2016", average=True, drops=True)
DROP: Final = Policy("drop", "Maranjyan et al. 2025", drops=True)

POLICIES: Final = {policy.name: policy for policy in (BSP, SSP, ASP, DSSP, BACKUP, DROP)}


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy together with its limits: what a run goes by."""

    policy: Policy
    bound: int | None  # None: the policy has no bound
    bound_max: int | None = None  # dssp: the upper limit; `bound` is the lower one
    bound_unit: str = CLOCKS
    backup_workers: int = 0
    staleness_limit: int | None = None  # drop: the server applies no gradient staler than this

    def __str__(self) -> str:
        if self.policy is DSSP:
            return f"dssp({self.bound}..{self.bound_max})"
        if self.policy is SSP:
            return f"ssp({self.bound}{' versions' if self.bound_unit == VERSIONS else ''})"
        if self.policy is BACKUP:
            return f"backup({self.backup_workers})"
        return f"drop({self.staleness_limit})" if self.policy is DROP else self.policy.name

    def settings(self) -> dict[str, Any]:
        """The rule as settings, under the keys of `welcome`, `state`, summary.json and events."""
        return {
            "policy": self.policy.name,
            "bound": self.bound,
            "bound_max": self.bound_max,
            "bound_unit": self.bound_unit,
            "backup_workers": self.backup_workers,
            "staleness_limit": self.staleness_limit,
        }

    def core(self) -> _core.Rule:
        """Makes the core's form of this rule."""
        gather = {BSP: "step", BACKUP: "round"}.get(self.policy, "each")
        return _core.Rule(
            bound=self.bound, bound_max=self.bound_max, unit=self.bound_unit, gather=gather,
            backup_workers=self.backup_workers, staleness_limit=self.staleness_limit,
        )  # fmt: skip

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Rule":
        """Makes the rule of what `settings` gave; a key that is missing stands for its default."""
        return cls(
            POLICIES[settings["policy"]], settings["bound"], settings.get("bound_max"),
            settings.get("bound_unit", CLOCKS), settings.get("backup_workers", 0),
            settings.get("staleness_limit"),
        )  # fmt: skip

    def require_workers(self, workers: int) -> None:
        """Raises UsageError if a run with this number of workers cannot go by this rule."""
        if self.backup_workers >= workers:
            raise UsageError(
                f"--backup-workers {self.backup_workers}: of {workers} "
                f"worker{'s' * (workers > 1)} at least one must be waited for; give fewer"
            )


def choose_rule(
    policy: str | None,
    bound: int | None,
    bound_max: int | None = None,
    backup_workers: int | None = None,
    bound_unit: str = CLOCKS,
    max_staleness: int | None = None,
) -> Rule:
    """Makes the rule that a command line asks for.

    Without a policy the bound decides: 0 is bsp, one too large to be reached is asp, any other
    is ssp; with neither, it is ssp with a bound of 3.

    Args:
        policy: its name; None lets the bound decide.
        bound: the largest lag; under dssp the lower limit of the bound.
        bound_max: dssp: the upper limit of the bound.
        backup_workers: backup: how many workers a round does not wait for.
        bound_unit: ssp: what the bound counts.
        max_staleness: drop: the server applies no gradient staler than this.

    Raises:
        UsageError: a number is out of its range, or contradicts the policy.
    """
    _check_number("--bound", bound, "a bound counts steps, so give 0 or more")
    _check_number("--bound-max", bound_max, "a bound counts steps, so give 0 or more")
    _check_number("--backup-workers", backup_workers, "give 0 or more")
    _check_number("--max-staleness", max_staleness, "staleness counts updates, so give 0 or more")
    chosen = POLICIES[policy] if policy is not None else _policy_of_bound(bound)
    if bound_max is not None and chosen is not DSSP:
        raise UsageError(f"--bound-max {bound_max}: is dssp's upper limit; add --policy dssp, or "
                         "leave it out")  # fmt: skip
    if backup_workers is not None and chosen is not BACKUP:
        raise UsageError(f"--backup-workers {backup_workers}: add --policy backup, or leave it out")
    if bound_unit != CLOCKS and chosen is not SSP:
        raise UsageError(f"--bound-unit {bound_unit}: goes with --policy ssp and a --bound of 1 or "
                         "more; leave it out")  # fmt: skip
    if max_staleness is not None and chosen is not DROP:
        raise UsageError(f"--max-staleness {max_staleness}: is drop's limit; add --policy drop, or "
                         "leave it out")  # fmt: skip
    if chosen is SSP:
        return _ssp(bound, bound_unit)
    if chosen is DSSP:
        return _dssp(bound, bound_max)
    _check_unbounded(chosen, bound, named=policy is not None)
    if chosen is DROP:
        return _drop(max_staleness)
    if chosen is BACKUP:
        spare = DEFAULT_BACKUP_WORKERS if backup_workers is None else backup_workers
        return Rule(BACKUP, None, backup_workers=spare)
    return Rule(chosen, 0 if chosen is BSP else None)


def _check_number(name: str, value: int | None, mend: str) -> None:
    if value is not None and value < 0:
        raise UsageError(f"{name} {value}: {mend}")
    if value is not None and value > MAX_COUNT:
        raise UsageError(f"{name} {value}: give at most {MAX_COUNT}")


def _policy_of_bound(given: int | None) -> Policy:
    bound = DEFAULT_BOUND if given is None else given
    if bound == 0:
        return BSP
    return ASP if bound >= UNREACHABLE_BOUND else SSP


def _ssp(given: int | None, bound_unit: str) -> Rule:
    bound = DEFAULT_BOUND if given is None else given
    if bound == 0:
        raise UsageError("--policy ssp needs --bound 1 or more; a bound of 0 is --policy bsp")
    return Rule(SSP, bound, bound_unit=bound_unit)


def _dssp(given: int | None, given_max: int | None) -> Rule:
    low = DEFAULT_BOUND if given is None else given
    high = low + DEFAULT_DYNAMIC_STEPS if given_max is None else given_max
    if not low <= high <= low + MAX_DYNAMIC_STEPS:
        raise UsageError(f"--bound-max {high}: give at least --bound, which is {low}, and "
                         f"at most {low + MAX_DYNAMIC_STEPS}")  # fmt: skip
    return Rule(DSSP, low, bound_max=high)


def _drop(max_staleness: int | None) -> Rule:
    if max_staleness is None:
        raise UsageError("--policy drop needs --max-staleness R, the largest staleness that is "
                         "applied; twice the number of workers is a start")  # fmt: skip
    return Rule(DROP, None, staleness_limit=max_staleness)


def _check_unbounded(policy: Policy, bound: int | None, *, named: bool) -> None:
    """Raises UsageError for a bound beside a named policy that has none."""
    if not named or bound is None or (policy is BSP and bound == 0):
        return
    kind = "bsp has a bound of 0" if policy is BSP else f"{policy.name} has no bound"
    instead = "give --max-staleness" if policy is DROP else "take --policy ssp"
    raise UsageError(f"--policy {policy.name} --bound {bound}: {kind}; leave --bound out, or "
                     f"{instead}")  # fmt: skip


# The rule as the message `set` carries it: 0 stands for None.


def rule_from_message(
    policy: str, limit: int, bound_max: int, backup_workers: int, bound_unit: str
) -> Rule:
    """Makes the rule of a `set` message, in which 0 stands for a limit that the policy lacks.

    Args:
        limit: the field `staleness`: under drop the largest staleness, otherwise the bound.
        bound_max: the field `staleness_max`.

    Raises:
        UsageError: the fields contradict each other, or name no policy.
    """
    if policy not in POLICIES:
        raise UsageError(f"policy {policy!r}: expected one of {', '.join(POLICIES)}")
    if bound_unit not in (CLOCKS, VERSIONS):
        raise UsageError(f"bound_unit {bound_unit!r}: expected {CLOCKS} or {VERSIONS}")
    chosen = POLICIES[policy]
    given = limit if limit or chosen in (SSP, DSSP, DROP) else None
    return choose_rule(
        policy,
        None if chosen is DROP else given,
        bound_max if bound_max or chosen is DSSP else None,
        backup_workers if backup_workers or chosen is BACKUP else None,
        bound_unit,
        given if chosen is DROP else None,
    )


def message_fields(rule: Rule) -> tuple[str, int, int, int, str]:
    """The fields of the `set` message from which `rule_from_message` makes this rule again."""
    limit = rule.staleness_limit if rule.policy is DROP else rule.bound
    return (
        rule.policy.name, limit or 0, rule.bound_max or 0, rule.backup_workers, rule.bound_unit,
    )  # fmt: skip
