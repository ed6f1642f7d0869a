"""The options of `leash server`, with their defaults: its address, and the run that it keeps.

Those of the policy are in rule.py, of the optimizer in optimizer.py and staleness.py, of the shares
of the data in plan.py, of model and data in task.py. `ServerOptions` puts all groups together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from leash._extras import install_command, is_installed
from leash.ps.errors import UsageError, shown
from leash.ps.options.addresses import (
    DEFAULT_ADDRESS,
    address_of,
    check_ports,
    parse_learners,
    risk_of,
)
from leash.ps.options.base import Options, check_not_negative, check_positive, flag, option
from leash.ps.options.optimizer import OptimizerGroup, optimizer_on_server
from leash.ps.options.outer_optimizer import OuterOptimizerGroup, with_todays_rates
from leash.ps.options.page import PageGroup
from leash.ps.options.plan import PlanGroup, check_range
from leash.ps.options.rule import RuleGroup, StalenessGroup, check_softens, with_new_names
from leash.ps.options.task import TaskGroup, TimeScaleGroup
from leash.ps.options.worker import PatienceGroup

MAX_SHARDS: Final = 64


SHARDS_HELP: Final = "server processes that share the model, 1 to 64; workers talk to all of them"


MAX_SERVER_THREADS: Final = 256  # the core's ThreadPool takes no more


CHUNK_STEP_KIB: Final = 64


# How often: in seconds, updates or epochs, or never.
IN_SECONDS, IN_UPDATES, IN_EPOCHS, NEVER = "s", "u", "e", "never"


# Flags that people know from the SSP demo's command lines, and from nowhere else.
DEMO_WORDS: Final = ("--save-path", "--this-rank", "--ps-ip", "--ps-port", "--test-bsz")


# What --log may name ▸ the package that it takes.
TRACKERS: Final[Mapping[str, str | None]] = {
    "tensorboard": "tensorboard", "wandb": "wandb", "csv": None
}  # fmt: skip
NO_TRACKERS: Final = "none"


def check_threads(options: Options, name: str) -> None:
    """Raises UsageError unless the core's pool can have this number of threads."""
    threads = getattr(options, name)
    if not 1 <= threads <= MAX_SERVER_THREADS:
        raise UsageError(f"{flag(name)} {threads}: give a number from 1 to {MAX_SERVER_THREADS}")


@dataclass(frozen=True, kw_only=True)
class ServerGroup(Options):
    """The options of a server's process: where it listens, for whom, with what memory."""

    title: ClassVar[str] = "server"

    bind: str = option(
        DEFAULT_ADDRESS,
        "where to listen; port P takes control messages and P+1 data, each further shard the next; "
        "0 or * takes free ports",
        metavar="tcp://IP:PORT",
    )
    workers: int = option(
        1, "how many workers take part, with the ranks 1 to N; 2:8 begins with two and takes up to "
        "eight at any time", metavar="N",
    )  # fmt: skip
    learners: str | None = option(
        None, "the ranks that take part, instead of --workers", metavar="1-2-3"
    )
    ps_ip: str | None = option(None, "the host part of the address alone", metavar="IP")
    ps_port: int | None = option(None, "the port of the address alone", metavar="PORT")
    this_rank: int = option(0, "rank of the server; always 0", metavar="0")
    evict_s: float = option(
        5.0, "a worker silent for so long is left behind, until it says hello again",
        metavar="SECONDS",
    )  # fmt: skip
    keys: str | None = option(
        None, "let in those alone who have a key of this folder, which leash keys new makes, and "
        "encrypt what travels",
        metavar="DIR", is_path=True,
    )  # fmt: skip
    insecure: bool = option(
        False,
        "without --keys: listen where other machines reach it, so that whoever does can join, "
        "read and change the model",
    )
    rejoin_s: float = option(
        600.0, "when every worker is gone, or work is left that is one's alone who is, wait so "
        "long for it to come back", metavar="SECONDS",
    )  # fmt: skip
    chunk_kib: int = option(1024, f"size of a chunk; a multiple of {CHUNK_STEP_KIB}", metavar="KIB")
    threads: int = option(1, "threads that share the work on a large chunk", metavar="N")
    window: int = option(16, "chunks that one worker may have in flight", metavar="CHUNKS")
    shards: int = option(1, SHARDS_HELP, metavar="N")
    observers: int = option(
        0, "evaluators to wait for before the start, beside the workers", metavar="N"
    )
    ready_fd: int | None = option(
        None,
        "write the address to this open file descriptor when listening, and leave writing "
        "config.yaml to the program that reads it",
        metavar="FD",
    )

    def check(self) -> None:
        super().check()
        parse_learners(self.learners, self.workers)
        check_positive(self, "workers", "evict_s", "rejoin_s", "window")
        check_threads(self, "threads")
        check_not_negative(self, "observers")
        check_shards(self.shards)
        check_ports(address_of(self.bind, self.ps_ip, self.ps_port), self.shards)
        if (risk := self.risk) and self.ps_ip is None:  # the demo gives its server no other way
            raise UsageError(risk)
        if self.chunk_kib < CHUNK_STEP_KIB or self.chunk_kib % CHUNK_STEP_KIB:
            raise UsageError(f"--chunk-kib {self.chunk_kib}: give a multiple of {CHUNK_STEP_KIB}")
        if self.this_rank != 0:
            raise UsageError(f"--this-rank {self.this_rank}: the server's rank is 0; "
                             "leash worker takes the others")  # fmt: skip

    @property
    def risk(self) -> str:
        """Says that strangers can reach this server, and what mends that; empty if they cannot."""
        is_kept = self.keys is not None or self.insecure
        return "" if is_kept else risk_of(address_of(self.bind, self.ps_ip, self.ps_port))

    @property
    def chunk_nbytes(self) -> int:
        """The size of a chunk in bytes, as the wire and the core count it."""
        return self.chunk_kib * 1024


@dataclass(frozen=True, kw_only=True)
class StallGroup(Options):
    """The option of what becomes of a worker that is alive and gets nowhere."""

    title: ClassVar[str] = "stalls"

    stall_s: float | None = option(
        None, "a worker that others wait for is left behind once it has been in one phase of its "
        "step for so long, such as backward; by default never", metavar="SECONDS",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_positive(self, "stall_s")


@dataclass(frozen=True, slots=True)
class Every:
    """How often something is done: every `count` of a unit, or never."""

    count: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Every":
        """Reads ``60s``, ``500u``, ``1e`` or ``never``.

        Raises:
            UsageError: it is none of these.
        """
        if text == NEVER:
            return cls(math.inf, NEVER)
        number, unit = text[:-1], text[-1:]
        try:
            count = float(number) if unit == IN_SECONDS else int(number)
        except ValueError:
            count = 0
        if unit not in (IN_SECONDS, IN_UPDATES, IN_EPOCHS) or not 0 < count < math.inf:
            raise UsageError(
                f"--checkpoint-every {text}: expected seconds such as 60s, updates such as 500u, "
                "epochs such as 1e, or never"
            )
        return cls(count, unit)


def renamed_run_option(name: str) -> str | None:
    """Says how an option of before is written today; None if this is no such option."""
    if name != "--checkpoint-epochs":
        return None
    return f"{name}: it is --checkpoint-every today, such as --checkpoint-every 2e for two epochs"


def renamed_checkpoints(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the settings of a file of before, which counted epochs alone, in today's terms."""
    others = {name: value for name, value in settings.items() if name != "checkpoint_epochs"}
    if epochs := settings.get("checkpoint_epochs"):
        others.setdefault("checkpoint_every", f"{epochs}e")
    return others


def in_todays_terms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the settings of a file, which any release may have written, in today's terms.

    Raises:
        UsageError: it gives one setting twice, or what it says cannot be said today.
    """
    return renamed_checkpoints(with_todays_rates(with_new_names(settings)))


@dataclass(frozen=True, kw_only=True)
class RunGroup(Options):
    """The options of what a run leaves, and when it ends."""

    title: ClassVar[str] = "run"

    run_dir: str | None = option(
        None, "what the run leaves goes here; default: runs/DATE-TIME-POLICY",
        "--save-path", metavar="DIR", is_path=True,
    )  # fmt: skip
    resume: str | None = option(
        None, "go on where this checkpoint was written; default: where a run in --run-dir was that "
        "is not done, by its newest checkpoint that is whole",
        metavar="FILE.safetensors", is_path=True,
    )  # fmt: skip
    fresh: bool = option(
        False, "begin anew in --run-dir; what a run has left there is moved to before-N in it"
    )
    checkpoint_every: str = option(
        "60s", "write a checkpoint so often: 60s, seconds, or 500u, updates, each in place of the "
        "one before it; 1e, epochs, each of them kept; or never. One is always written at the end. "
        "Workers go on meanwhile; it takes up to one more model in memory",
        metavar="TIME",
    )  # fmt: skip
    step_events: int = option(
        1, "record every Nth step of each worker in events.jsonl; 0 records none", metavar="N"
    )
    log: str | None = option(
        None, "trackers for the curves of the run, and for what loops log: tensorboard, wandb and "
        "csv, in any number, or none; default: TensorBoard's files, where an evaluator writes them",
        metavar="NAME,...",
    )  # fmt: skip
    timeout_s: float | None = option(
        None, "end cleanly after so long a training", "--timeout", metavar="SECONDS"
    )
    demo_logs: bool = option(
        False, "also leave the logs that the SSP demo does, trainlossMODEL.txt and "
        f"stalenessMODEL.txt; {', '.join(DEMO_WORDS[:-1])} and {DEMO_WORDS[-1]}, which are the "
        "demo's words, ask for them too",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_positive(self, "timeout_s")
        check_not_negative(self, "step_events")
        _ = self.checkpoints
        for name in self.trackers:
            package = TRACKERS[name]
            if package is not None and not is_installed(package):
                raise UsageError(f"--log {self.log}: {package} is not installed: "
                                 f"{install_command(package)}")  # fmt: skip

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names in `log`, each once.

        Raises:
            UsageError: one is unknown.
        """
        names = tuple(dict.fromkeys((self.log or NO_TRACKERS).replace(" ", "").split(",")))
        if names == (NO_TRACKERS,):
            return ()
        for name in names:
            if name not in TRACKERS:
                raise UsageError(
                    f"--log {self.log}: {shown(name)} is no tracker; give one or several of "
                    f"{', '.join(TRACKERS)}, with commas between them, or none"
                )
        return names

    @property
    def checkpoints(self) -> Every:
        """How often a checkpoint is written.

        Raises:
            UsageError: it is said in no way that is known.
        """
        return Every.parse(self.checkpoint_every)


def with_demo_logs(words: Sequence[str]) -> list[str]:
    """Adds `--demo-logs` to a command line in the demo's words; `--no-demo-logs` in it wins."""
    command, *others = words or [""]
    if command in ("server", "launch") and {w.partition("=")[0] for w in others} & set(DEMO_WORDS):
        return [command, "--demo-logs", *others]
    return list(words)


def check_shards(shards: int) -> None:
    """Raises UsageError unless a run can have this number of shards."""
    if not 1 <= shards <= MAX_SHARDS:
        raise UsageError(f"--shards {shards}: give 1 to {MAX_SHARDS}")


@dataclass(frozen=True, kw_only=True)
class ServerOptions(
    ServerGroup, StallGroup, RuleGroup, PlanGroup, OptimizerGroup, OuterOptimizerGroup,
    StalenessGroup, TaskGroup, RunGroup, PageGroup, PatienceGroup, TimeScaleGroup,
):  # fmt: skip
    """Keep the parameters, and apply what workers push."""

    def check(self) -> None:
        super().check()
        if self.learners is not None and self.max_workers is not None:
            raise UsageError(f"--learners {self.learners}: fixes who takes part; leave it or "
                             f"--max-workers {self.max_workers} out")  # fmt: skip
        check_range(self, self.workers)
        self.rule.require_workers(self.least)
        check_softens(self, optimizer_on_server(self), self.rule)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that may take part. Raises UsageError."""
        return parse_learners(self.learners, self.max_workers or self.workers)

    @property
    def least(self) -> int:
        """With how many workers the run begins. Raises UsageError."""
        return self.workers if self.max_workers is not None else len(self.ranks)
