"""The options of who trains on how much: data plan, batch plan, local steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.base import Options, option

LEASE: Final = "lease"
STATIC: Final = "static"
WEIGHTED: Final = "weighted"
AUTO: Final = "auto"
MAX_LOCAL_STEPS: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PlanGroup(Options):
    """The options of who trains on how much."""

    title: ClassVar[str] = "who trains on how much"

    data_plan: Literal["lease", "static"] | None = option(
        None,
        "lease: the server hands out ranges of the epoch, in sizes that follow each worker's "
        "speed; static: fixed shares, equal or by --hetero-allocation. Default: static under bsp "
        "or with --hetero-allocation, otherwise lease",
    )
    batch_plan: Literal["equal", "weighted"] = option(
        "equal",
        "weighted: batches in proportion to each worker's measured speed, whose mean is "
        "--batch-size; needs leases, which it then takes by default",
    )
    local_steps: str = option(
        "1",
        "steps that a worker takes itself between two pushes, by --optimizer and --lr; what they "
        "have changed is pushed, and the server applies it by --outer-lr. auto: fewer for slower "
        "workers, so that all push at about the same time (it takes leases by default)",
        metavar="N|auto",
    )

    def check(self) -> None:
        super().check()
        parse_local_steps(self.local_steps)
        for name, adaptive in (
            ("--batch-plan weighted", self.batch_plan == WEIGHTED),
            ("--local-steps auto", self.local_steps == AUTO),
        ):
            if adaptive and self.data_plan == STATIC:
                raise UsageError(f"{name}: needs leases; leave --data-plan static out")


def batch_count(samples: int, batch_size: int) -> int:
    """How many batches a worker makes of so many samples.

    A single sample that is left over joins the batch before it, if there is one.
    """
    whole, left_over = divmod(samples, batch_size)
    return whole + (left_over > 1 or left_over == samples == 1)


def parse_local_steps(text: str) -> int | None:
    """``"8"`` ▸ 8; ``"auto"`` ▸ None.

    Raises:
        UsageError: neither auto nor a whole number above 0.
    """
    if text == AUTO:
        return None
    if text.isdecimal() and 1 <= int(text) <= MAX_LOCAL_STEPS:
        return int(text)
    raise UsageError(f"--local-steps {text}: give auto, or a number from 1 to {MAX_LOCAL_STEPS}")


def takes_local_steps(text: str) -> bool:
    """Whether `--local-steps` asks for more than one step between two pushes; `auto` does."""
    return parse_local_steps(text) != 1


def choose_data_plan(options: PlanGroup, policy: str, *, has_allocation: bool) -> str:
    """Chooses the data plan of a run, "lease" or "static".

    Args:
        policy: the name of the run's policy.
        has_allocation: whether `--hetero-allocation` fixes unequal shares.

    Raises:
        UsageError: fixed shares together with leases.
    """
    adaptive = options.batch_plan == WEIGHTED or options.local_steps == AUTO
    if has_allocation and (adaptive or options.data_plan == LEASE):
        raise UsageError("--hetero-allocation: fixes every worker's share, so it goes with "
                         "--data-plan static; leave one of the two out")  # fmt: skip
    if options.data_plan is not None:
        return options.data_plan
    if has_allocation or (policy == "bsp" and not adaptive):
        return STATIC
    return LEASE


def data_plan_of_worker(settings: Mapping[str, Any], *, has_allocation: bool) -> str:
    """Chooses the data plan of one worker: the server's, unless its own share is fixed.

    Args:
        settings: of the server, from `welcome`.
        has_allocation: whether this worker was started with `--hetero-allocation`.

    Raises:
        UsageError: fixed shares, and a server that adapts the work to the speed.
    """
    if not has_allocation:
        return str(settings["data_plan"])
    for name, adaptive in (
        ("--batch-plan weighted", settings["batch_plan"] == WEIGHTED),
        ("--local-steps auto", settings["local_steps"] == AUTO),
    ):
        if adaptive:
            raise UsageError(f"--hetero-allocation: the server was started with {name}, which "
                             "needs leases; leave one of the two out")  # fmt: skip
    return STATIC
