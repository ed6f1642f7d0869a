"""The options of `leash launch`: of its processes, of their machines, and what goes together."""

import dataclasses
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

from leash.ps.errors import UsageError
from leash.ps.hosts.places import HostPlaces, parse_hosts
from leash.ps.options.addresses import (
    MAX_PORT,
    parse_learners,
)
from leash.ps.options.base import (
    Options,
    check_not_negative,
    check_positive,
    flag,
    option,
    program,
)
from leash.ps.options.optimizer import OptimizerGroup, optimizer_on_server
from leash.ps.options.outer_optimizer import OuterOptimizerGroup
from leash.ps.options.page import PageGroup
from leash.ps.options.plan import (
    SLURM_TASKS,
    PlanGroup,
    Resize,
    check_range,
    choose_data_plan,
    most_workers,
    parse_resize,
)
from leash.ps.options.rule import RuleGroup, StalenessGroup, check_softens
from leash.ps.options.server import (
    SHARDS_HELP,
    RunGroup,
    StallGroup,
    check_shards,
    check_threads,
)
from leash.ps.options.task import TaskGroup, TimeScaleGroup
from leash.ps.options.worker import (
    KEYS_HELP,
    LeavingGroup,
    PatienceGroup,
    SlownessGroup,
    TrainingGroup,
    TransportGroup,
)
from leash.ps.slowness.by_rank import parse_allocation, parse_heterogeneity, parse_slow
from leash.ps.slowness.grammar import Slowness
from leash.ps.words import did_you_mean

# What `leash worker` does goes by these; a script of one's own knows nothing of them.
OF_THE_OWN_LOOP: Final = {
    field.name
    for group in (
        TaskGroup, TrainingGroup, TransportGroup, SlownessGroup, TimeScaleGroup,
    )
    for field in dataclasses.fields(group)
} - {"seed", "threads"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LaunchGroup(Options):
    """The options of `leash launch` alone."""

    title: ClassVar[str] = "launch"

    script: str | None = program(
        "a Python script of your own, to start in the place of each `leash worker`. It may stand "
        "at the end, without this flag; what follows its name is the script's"
    )
    workers: int = option(
        2, "how many workers to start on this machine; 2:8 starts two, and takes up to eight that "
        "join at any time", metavar="N",
    )  # fmt: skip
    learners: str | None = option(
        None, "as the SSP demo writes how many: 1-2-3 is --workers 3", metavar="1-2-3"
    )
    resize: str | None = option(
        None, "start more of them, or tell the newest to leave, while the run goes on: 60:8,300:3 "
        "has eight from second 60 of training on, and three from second 300 on",
        metavar="SECONDS:WORKERS,...",
    )  # fmt: skip
    shards: int = option(1, SHARDS_HELP, metavar="N")
    keys: str | None = option(
        None, KEYS_HELP, metavar="DIR", is_path=True
    )  # fmt: skip
    server_threads: int = option(
        1, "threads that share the work on a large chunk in the server", metavar="N"
    )
    server_restarts: int = option(
        3,
        "start a server that has crashed again, so many times; its workers wait for it",
        metavar="N",
    )
    report: bool = option(False, "leave a page of pictures, as leash report does")
    state_fd: int | None = option(
        None, "for programs: write how the run stands to this open file descriptor, about twice a "
        "second, a JSON object a line", metavar="FD",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_positive(self, "workers")
        check_not_negative(self, "server_restarts")
        if self.learners is not None:  # from a file; the command line has it counted
            raise UsageError(f"learners {self.learners}: in a file of leash launch say workers: "
                             f"{len(parse_learners(self.learners, 0))}")  # fmt: skip
        check_shards(self.shards)
        check_threads(self, "server_threads")


@dataclass(frozen=True, kw_only=True)
class HostsGroup(Options):
    """The options of `leash launch` on several machines."""

    title: ClassVar[str] = "several machines"

    hosts: str | None = option(
        None, "start the server here, and the workers over ssh on these hosts: gpu1,gpu2:2,box3 "
        "has two on gpu2; or a file with one host a line. ssh is yours, with your configuration, "
        "and may not have to ask for anything", metavar="HOST,...|FILE", is_path=True,
    )  # fmt: skip
    slurm: bool = option(
        False,
        "this is one of several tasks that srun has started: each is a worker, of rank "
        "SLURM_PROCID + 1, and the first has the server too",
    )
    python: str | None = option(
        None, "the Python of the hosts, with the same Leash; default: the path of this one",
        metavar="PATH",
    )  # fmt: skip
    sync: str | None = option(
        None, "first copy this directory to the same place on each host, by rsync, without what "
        "git ignores", metavar="DIR", is_path=True,
    )  # fmt: skip
    address: str | None = option(
        None, "of this machine, at which the hosts find the server; default: the one by which each "
        "host reaches it", metavar="HOST",
    )  # fmt: skip
    port: int | None = option(
        None, "of this machine, at which the server listens, and at those behind it; default: any "
        "that are free", metavar="PORT",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.hosts is not None and self.slurm:
            raise UsageError("--slurm: srun starts the workers where --hosts would; leave one of "
                             "the two out")  # fmt: skip
        others = () if self.slurm else ("address", "port")
        for name in ("python", "sync", *others):
            if self.hosts is None and getattr(self, name) is not None:
                raise UsageError(f"{flag(name)}: is for other machines; give --hosts too, or leave "
                                 "it out")  # fmt: skip
        _ = self.places  # reading it raises UsageError if it is wrong
        if self.port is not None and not 0 < self.port <= MAX_PORT:
            raise UsageError(f"--port {self.port}: a port is a number from 1 to {MAX_PORT}")

    @cached_property
    def places(self) -> list[HostPlaces]:
        """The hosts with the numbers of their workers; none without --hosts. Raises UsageError."""
        return [] if self.hosts is None else parse_hosts(self.hosts)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(
    LaunchGroup, HostsGroup, TaskGroup, RuleGroup, PlanGroup, OptimizerGroup, OuterOptimizerGroup,
    StalenessGroup, TrainingGroup, TransportGroup, PatienceGroup, LeavingGroup, SlownessGroup,
    TimeScaleGroup, StallGroup, RunGroup, PageGroup,
):  # fmt: skip
    """Start a server, workers and an evaluator, here or on several machines, and watch them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        with suppress(UsageError):  # which `check` raises
            if self.hosts is not None:
                object.__setattr__(self, "workers", sum(host.workers for host in self.places))
            elif self.slurm:
                tasks = next((os.environ[name] for name in SLURM_TASKS if name in os.environ), "1")
                object.__setattr__(self, "workers", int(tasks))

    def check(self) -> None:
        super().check()
        check_range(self, self.workers)
        if self.slurm and self.resize is not None:
            raise UsageError("--resize: Slurm says how many tasks there are; leave it out")
        if self.hosts is not None and self.most_started > self.workers:
            raise UsageError(f"--resize {self.resize}: --hosts {self.hosts} has places for "
                             f"{self.workers} workers; give it more, such as HOST:2, and begin "
                             "with fewer by --resize 0:N")  # fmt: skip
        if self.most_started > (self.max_workers or self.workers):
            raise UsageError(f"--resize {self.resize}: more workers than may take part; give "
                             f"--workers {self.workers}:{self.most_started}")  # fmt: skip
        self.rule.require_workers(self.workers)
        check_softens(self, optimizer_on_server(self), self.rule)
        _ = self.slownesses, self.ratios  # reading them raises UsageError if they are wrong
        if self.hetero_allocation is not None:
            parse_allocation(self.hetero_allocation, self.workers)
        data_plan_of(self)
        if self.script is not None:
            self._check_script(self.script)
        elif self.model is None and self.dataset is None:
            raise UsageError("say what to train: for example --dataset digits, or --model "
                             "mnist_cnn --data-dir DIR, or a script of your own")  # fmt: skip

    def _check_script(self, script: str) -> None:
        """Refuses a script that is not there, and options of the loop that it takes the place of.

        Raises:
            UsageError: names the option, or the script.
        """
        try:
            path = (shlex.split(script) or [""])[0]
        except ValueError as error:
            raise UsageError(f"--script {script}: not words as a shell takes them: "
                             f"{error}") from error  # fmt: skip
        if not path or (not Path(path).exists() and self.hosts is None):
            raise UsageError(f"{path}: there is no such script; {_near(path)}give the path of one, "
                             "or leave this word out")  # fmt: skip
        if self.hosts is not None and not Path(path).exists() and _is_bare(path):
            others = path.strip(",")
            raise UsageError(f"{path}: there is no such script here; hosts are written without "
                             f"blanks: --hosts {self.hosts.rstrip(',')},{others}; for a script "
                             f"that is only there, give its path: ./{others}")  # fmt: skip
        for field in dataclasses.fields(self):
            if field.name in OF_THE_OWN_LOOP and getattr(self, field.name) != field.default:
                raise UsageError(
                    f"{flag(field.name)}: a script of your own decides this itself; leave it out, "
                    "or give the script such an option behind its name"
                )

    @cached_property
    def slownesses(self) -> list[Slowness]:
        """Each worker's slowness, by rank, from --slow. Raises UsageError."""
        return parse_slow(self.slow, self.most_started)

    @cached_property
    def ratios(self) -> list[float]:
        """Each worker's heterogeneity, by rank. Raises UsageError."""
        return parse_heterogeneity(self.heterogeneity, self.most_started)

    @property
    def changes(self) -> list[Resize]:
        """When how many workers take part, from --resize. Raises UsageError."""
        return parse_resize(self.resize)

    @property
    def most_started(self) -> int:
        """How many workers the launcher starts, over all of the run. Raises UsageError."""
        return most_workers(self.workers, self.changes)


def _is_bare(path: str) -> bool:
    """Whether a script's path is a plain word, such as a host that stands behind a blank."""
    return "/" not in path and not path.endswith(".py")


def _near(path: str) -> str:
    """Asks whether a script was meant that is there, beside where this one would be."""
    scripts = {script.name: str(script) for script in Path(path).parent.glob("*.py")}
    return did_you_mean(Path(path).name, scripts)


def data_plan_of(options: LaunchOptions) -> str:
    """Chooses the data plan of a launch. Raises UsageError for fixed shares beside leases."""
    policy = options.rule.policy.name
    return choose_data_plan(options, policy, has_allocation=options.hetero_allocation is not None)
