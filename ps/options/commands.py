"""The options of each command: which groups it takes, and checks that concern several groups."""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.hosts.places import HostPlaces, parse_hosts
from leash.ps.options.addresses import (
    MAX_PORT,
    check_rank,
    check_server_address,
    parse_learners,
)
from leash.ps.options.base import (
    Options,
    argument,
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
from leash.ps.options.rule import RuleGroup
from leash.ps.options.server import (
    SHARDS_HELP,
    RunGroup,
    StallGroup,
    check_shards,
    check_threads,
)
from leash.ps.options.staleness import StalenessGroup, check_softens
from leash.ps.options.task import TaskGroup, TimeScaleGroup
from leash.ps.options.worker import (
    KEY_HELP,
    KEYS_HELP,
    ConnectionGroup,
    LeavingGroup,
    PatienceGroup,
    SlownessGroup,
    TrainingGroup,
    TransportGroup,
)
from leash.ps.slowness.by_rank import parse_allocation, parse_heterogeneity, parse_slow
from leash.ps.slowness.grammar import Slowness

REASON_MAX: Final = 500  # characters; so that a message has room for it
# What `leash worker` does goes by these; a script of one's own knows nothing of them.
OF_THE_OWN_LOOP: Final = {
    field.name
    for group in (
        TaskGroup, TrainingGroup, TransportGroup, SlownessGroup, TimeScaleGroup,
    )
    for field in dataclasses.fields(group)
} - {"epochs", "seed", "threads"}  # fmt: skip


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
            raise UsageError(f"{path}: there is no such script; give the path of one, or leave "
                             "this word out")  # fmt: skip
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


@dataclass(frozen=True, kw_only=True)
class EvaluateGroup(Options):
    """The options of `leash evaluate` alone."""

    title: ClassVar[str] = "evaluation"

    run_dir: str | None = option(
        None,
        "write TensorBoard files below this folder",
        "--save-path",
        metavar="DIR",
        is_path=True,
    )
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    threads: int = option(1, "threads that torch uses", metavar="N")

    def check(self) -> None:
        super().check()
        check_positive(self, "threads")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ConnectionGroup, TaskGroup, EvaluateGroup):
    """Watch a run as an observer, and measure the test accuracy after each epoch."""


@dataclass(frozen=True, kw_only=True)
class StatusGroup(Options):
    """The options of `leash status` alone."""

    title: ClassVar[str] = "status"

    json: bool = option(False, "print the state as JSON")
    watch: bool = option(False, "keep the table up to date until the run ends")
    stacks: bool = option(
        False, "ask the workers for the stacks of their training threads, and show those too"
    )


@dataclass(frozen=True, kw_only=True)
class StatusOptions(ConnectionGroup, StatusGroup):
    """Show how a run stands."""

    # Shorter than a worker's: who asks how a run stands believes that its server is up.
    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")


@dataclass(frozen=True, kw_only=True)
class SetOptions(ConnectionGroup, RuleGroup):
    """Change the policy of a run that goes on. What is not given has its default."""

    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")

    def check(self) -> None:
        super().check()
        if self.policy is None and self.bound is None:
            raise UsageError("say what to change: for example --policy ssp --bound 5")


@dataclass(frozen=True, kw_only=True)
class RunsOptions(Options):
    """List the runs in a folder: when, what, how they ended, accuracy, time."""

    title: ClassVar[str] = "which runs"

    folder: str = argument("runs", "a folder of runs; default: runs", is_path=True)
    json: bool = option(False, "print them as JSON")


@dataclass(frozen=True, kw_only=True)
class SaveGroup(Options):
    """The option of `leash save` alone."""

    title: ClassVar[str] = "checkpoint"

    file: str = argument(
        "checkpoint.safetensors", "where the checkpoint goes; what is there is replaced",
        is_path=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SaveOptions(ConnectionGroup, SaveGroup):
    """Save a checkpoint of a run that goes on; leash server --resume FILE goes on from it."""

    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")


@dataclass(frozen=True, kw_only=True)
class StopGroup(Options):
    """The option of `leash stop` alone."""

    title: ClassVar[str] = "the end"

    reason: str = option("", "why, for people: terminals and summary.json tell it", metavar="TEXT")

    def check(self) -> None:
        super().check()
        if len(self.reason) > REASON_MAX:
            raise UsageError(f"--reason: takes at most {REASON_MAX} characters, got "
                             f"{len(self.reason)}; say it in fewer")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StopOptions(ConnectionGroup, StopGroup):
    """End a run that goes on, with its last checkpoint and its summary."""

    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")


@dataclass(frozen=True, kw_only=True)
class DismissGroup(Options):
    """The options of `leash leave` alone."""

    title: ClassVar[str] = "who is to leave"

    rank: int | None = option(
        None, "the worker of this number; without it, all workers on a host", metavar="N"
    )
    host: str | None = option(None, "the name of the host; default: this one", metavar="HOST")

    def check(self) -> None:
        super().check()
        if self.rank is not None:
            check_rank(self.rank)
        if self.rank is not None and self.host is not None:
            raise UsageError(f"--host {self.host}: --rank {self.rank} says already who is to "
                             "leave; leave one of the two out")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DismissOptions(ConnectionGroup, DismissGroup):
    """Tell workers to end their step and leave; the others go on."""

    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")


@dataclass(frozen=True, kw_only=True)
class KeysOptions(Options):
    """Make, list and revoke the keys by which a server knows who may take part."""

    title: ClassVar[str] = "keys"

    action: Literal["new", "add", "list", "revoke"] = argument("list", "what to do (default: list)")
    folder: str = argument("keys", "the folder of the keys (default: keys)", is_path=True)
    name: str = argument("", "add, revoke: whose key; a file of this name")
    workers: int = option(1, "new: how many workers get a key", metavar="N")
    role: Literal["worker", "observer", "admin"] = option(
        "worker", "add: an observer only reads; an admin may also change, save and stop the run"
    )
    rank: int | None = option(
        None, "add: the only rank of this worker; without it, the one that it takes first",
        metavar="N",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_positive(self, "workers")
        has_name, takes_name = bool(self.name), self.action in ("add", "revoke")
        if takes_name and not has_name:
            raise UsageError(f"say whose key: leash keys {self.action} {self.folder} NAME")
        if has_name and not takes_name:
            raise UsageError(f"{self.name}: leash keys {self.action} takes no name; leave it out")
        if self.rank is not None:
            check_rank(self.rank)
            if self.action != "add" or self.role != "worker":
                raise UsageError("--rank: is for leash keys add with --role worker; leave it out")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """Check this installation, and the way to a server."""

    title: ClassVar[str] = "what to check"

    server: str | None = option(
        None, "also check the server at this address", metavar="tcp://HOST:PORT"
    )
    key: str | None = option(None, KEY_HELP, metavar="FILE", is_path=True)

    def check(self) -> None:
        super().check()
        if self.server is not None:
            check_server_address(self.server)


def data_plan_of(options: LaunchOptions) -> str:
    """Chooses the data plan of a launch. Raises UsageError for fixed shares beside leases."""
    policy = options.rule.policy.name
    return choose_data_plan(options, policy, has_allocation=options.hetero_allocation is not None)


def require_one_number_of_workers(words: Sequence[str]) -> None:
    """Raises UsageError for a launch whose command line gives both --hosts and --workers.

    Args:
        words: the command, and what stands behind it.
    """
    given = {word.partition("=")[0] for word in words[1:]}
    if words[:1] == ["launch"] and {"--slurm", "--workers"} <= given:
        raise UsageError("--workers: with --slurm there is one in each task (srun --ntasks); leave "
                         "it out. --max-workers lets more join")  # fmt: skip
    if words[:1] == ["launch"] and {"--hosts", "--workers"} <= given:
        raise UsageError("--workers: --hosts says how many there are, one on each host or as many "
                         "as HOST:2 says; leave it out. --max-workers lets more join")  # fmt: skip
