"""The options of who trains on how much: data plan, batch plan, local steps."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.addresses import parse_learners
from leash.ps.options.base import Options, flag, option

LEASE: Final = "lease"
STATIC: Final = "static"
WEIGHTED: Final = "weighted"
AUTO: Final = "auto"
MAX_LOCAL_STEPS: Final = 1 << 20
LEARNERS: Final = "--learners"
WITH_RANGE: Final = ("server", "launch")  # the commands whose --workers may be a range
# Of a process that srun has started: how many there are.
SLURM_TASKS: Final = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
MAX_WORKERS: Final = 65536  # that may take part in a run whose workers come and go


@dataclass(frozen=True, kw_only=True)
class PlanGroup(Options):
    """The options of who trains on how much."""

    title: ClassVar[str] = "who trains on how much"

    data_plan: Literal["lease", "static"] | None = option(
        None,
        "lease: the server hands out ranges of the epoch, in sizes that follow each worker's "
        "speed; static: fixed shares, equal or by --hetero-allocation. Default: static under bsp "
        "with a fixed number of --workers or with --hetero-allocation, otherwise lease",
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
    max_workers: int | None = option(
        None, "workers may join at any time, until so many take part; --workers 2:8 is short for "
        "--workers 2 --max-workers 8. It takes leases", metavar="N",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        parse_local_steps(self.local_steps)
        for name, adaptive in (
            ("--batch-plan weighted", self.batch_plan == WEIGHTED),
            ("--local-steps auto", self.local_steps == AUTO),
            (f"--max-workers {self.max_workers}", self.max_workers is not None),
        ):
            if adaptive and self.data_plan == STATIC:
                raise UsageError(f"{name}: needs leases; leave --data-plan static out")


def check_range(options: PlanGroup, workers: int) -> None:
    """Raises UsageError if a run that begins with so many workers cannot have --max-workers."""
    most = options.max_workers
    if most is not None and not workers < most <= MAX_WORKERS:
        raise UsageError(f"--workers {workers}:{most}: the second number is how many may take part "
                         f"at most; give more than {workers}, up to {MAX_WORKERS}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resize:
    """From a moment on a run has another number of workers."""

    at_s: float  # seconds of training
    workers: int


def parse_resize(text: str | None) -> list[Resize]:
    """Reads ``60:8,300:3``: eight workers from second 60 on, three from second 300 on.

    Raises:
        UsageError: it has another form, or the times do not grow.
    """
    if text is None:
        return []
    try:
        pairs = [part.split(":") for part in text.split(",")]
        changes = [Resize(float(at_s), int(workers)) for at_s, workers in pairs]
    except ValueError:
        changes = []
    times = [change.at_s for change in changes]
    grow = all(a < b for a, b in pairwise(times))
    if not changes or not grow or not times[0] >= 0 or not times[-1] < math.inf:
        raise UsageError(f"--resize {text}: give seconds that grow, each with the number of "
                         "workers from then on, such as 60:8,300:3")  # fmt: skip
    if not all(1 <= change.workers <= MAX_WORKERS for change in changes):
        raise UsageError(f"--resize {text}: give numbers of workers from 1 to {MAX_WORKERS}")
    return changes


def most_workers(workers: int, changes: Sequence[Resize]) -> int:
    """The most workers at any time of a run that begins with so many, and has these changes."""
    return max(workers, *(change.workers for change in changes), 0)


@dataclass(frozen=True, slots=True)
class Turn:
    """A worker joins, or is told to leave."""

    at_s: float  # seconds of training
    rank: int
    joins: bool


def turns(workers: int, changes: Sequence[Resize]) -> list[Turn]:
    """Says who joins and leaves when: the newest leave first.

    Args:
        workers: with how many the run begins.
        changes: of their number.
    """
    found = []
    for change in changes:
        low, high = sorted((workers, change.workers))
        joins = change.workers > workers
        found += [Turn(change.at_s, rank, joins) for rank in range(low + 1, high + 1)]
        workers = change.workers
    return found


def with_worker_range(words: Sequence[str]) -> list[str]:
    """Writes `--workers 2:8` as the two options that it is short for, `4:4` as one.

    Raises:
        UsageError: they are not two numbers, or the command takes one alone.
    """
    if not words or words[0] not in WITH_RANGE:
        _require_no_range(words)
        return list(words)
    written: list[str] = []
    rest = iter(words)
    for word in rest:
        name, has_value, value = word.partition("=")
        if name != "--workers":
            written.append(word)
            continue
        value = value if has_value else next(rest, "")
        if not has_value and not value:
            written.append(word)
            continue
        written += [f"{flag(name)}={number}" for name, number in worker_range(value).items()]
    return written


def with_counted_learners(words: Sequence[str]) -> list[str]:
    """Writes the SSP demo's `launch --learners 1-2-3` as `--workers 3`: it starts them by number.

    Raises:
        UsageError: these are no ranks, or some are left out.
    """
    if words[:1] != ["launch"] and words[:1] != ("launch",):
        return list(words)
    written: list[str] = []
    rest = iter(words)
    for word in rest:
        name, has_value, value = word.partition("=")
        if name != LEARNERS:
            written.append(word)
            continue
        value = value if has_value else next(rest, "")
        ranks = parse_learners(value, 0)
        if sorted(ranks) != list(range(1, len(ranks) + 1)):
            raise UsageError(f"{LEARNERS} {value}: leash launch gives the ranks from 1 on; give "
                             f"--workers {len(ranks)}")  # fmt: skip
        written.append(f"--workers={len(ranks)}")
    return written


def with_range_apart(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the settings of a file with `workers: 2:8` as the two that it is short for.

    Raises:
        UsageError: as in `worker_range`.
    """
    text = settings.get("workers")
    if not isinstance(text, str) or ":" not in text:
        return dict(settings)
    return {**settings, **{name: int(number) for name, number in worker_range(text).items()}}


def _require_no_range(words: Sequence[str]) -> None:
    for word, behind in zip(words, [*words[1:], ""], strict=False):
        name, has_value, value = word.partition("=")
        value = value if has_value else behind
        if name == "--workers" and re.fullmatch(r"\d+:\d+", value):
            mend = "give one number"
            if words[0] == "simulate":
                mend = "say when they come and go, such as --workers 2 --resize 60:8,300:3"
            raise UsageError(
                f"--workers {value}: a range is for leash {' and '.join(WITH_RANGE)}; {mend}"
            )


def worker_range(text: str) -> dict[str, str]:
    """Reads `2:8`, or `4`: the settings `workers` and, for a range, `max_workers`, as texts.

    Raises:
        UsageError: there is a colon, and not a number on each side of it.
    """
    least, colon, most = text.partition(":")
    if not colon:
        return {"workers": text}
    if not (least.isdecimal() and most.isdecimal()):
        raise UsageError(f"--workers {text}: give a number, or two such as 2:8, to begin with two "
                         "and take up to eight")  # fmt: skip
    if int(least) == int(most):
        return {"workers": least}
    return {"workers": least, "max_workers": most}


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
    if has_allocation and options.max_workers is not None:
        raise UsageError("--hetero-allocation: fixes every worker's share, so it needs a fixed "
                         "number of --workers; leave one of the two out")  # fmt: skip
    if options.data_plan is not None:
        return options.data_plan
    adaptive |= options.max_workers is not None
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
