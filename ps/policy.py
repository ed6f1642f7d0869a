"""Who waits for whom: one visible table, thin over the C++ clock.

| policy | the reply to the push for step c goes out when | the update is                       |
| ------ | ---------------------------------------------- | ----------------------------------- |
| asp    | at once                                        | applied on arrival                  |
| ssp    | the smallest clock ≥ c − bound                 | applied on arrival                  |
| bsp    | all clocks ≥ c (bound 0)                       | the sample-weighted mean of a step  |

ssp: Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel Parameter
Server", section 3. asp has no bound; bsp is bound 0 with one update a step.
"""

from dataclasses import dataclass
from typing import Final

from ps.errors import UsageError

DEFAULT_BOUND: Final = 3
# A bound that no run reaches is none: users of the SSP demo write one for asp.
UNREACHABLE_BOUND: Final = 10_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Which replies wait, and how gradients become an update."""

    name: str
    bounded: bool  # has a bound above 0 that its user chooses
    average: bool  # one update a step, from the mean of all workers' gradients


ASP: Final = Policy("asp", bounded=False, average=False)
SSP: Final = Policy("ssp", bounded=True, average=False)
BSP: Final = Policy("bsp", bounded=False, average=True)

POLICIES: Final = {policy.name: policy for policy in (BSP, SSP, ASP)}


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy with its bound, as a run uses it."""

    policy: Policy
    bound: int | None  # None: nobody ever waits

    def __str__(self) -> str:
        return f"{self.policy.name}({self.bound})" if self.policy.bounded else self.policy.name


def choose_rule(policy: str | None, staleness: int | None) -> Rule:
    """The rule that a command line asks for.

    Without a policy the bound decides: 0 is bsp, one too large to be reached is asp, any other
    is ssp; with neither, it is ssp with a bound of 3.

    Raises:
        UsageError: a negative bound, or a bound that contradicts the policy.
    """
    if staleness is not None and staleness < 0:
        raise UsageError(f"--staleness {staleness}: a bound counts steps, so give 0 or more")
    if policy is None:
        return _rule_of_bound(DEFAULT_BOUND if staleness is None else staleness)
    chosen = POLICIES[policy]
    if chosen is SSP:
        bound = DEFAULT_BOUND if staleness is None else staleness
        if bound == 0:
            raise UsageError(
                "--policy ssp needs --staleness 1 or more; a bound of 0 is --policy bsp"
            )
        return Rule(SSP, bound)
    if staleness is not None and staleness != (0 if chosen is BSP else None):
        kind = "bsp has a bound of 0" if chosen is BSP else "asp has no bound"
        raise UsageError(f"--policy {policy} --staleness {staleness}: {kind}; leave --staleness "
                         "out, or take --policy ssp")  # fmt: skip
    return Rule(chosen, 0 if chosen is BSP else None)


def _rule_of_bound(bound: int) -> Rule:
    if bound == 0:
        return Rule(BSP, 0)
    return Rule(ASP, None) if bound >= UNREACHABLE_BOUND else Rule(SSP, bound)
