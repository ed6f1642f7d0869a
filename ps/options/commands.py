"""The options of each command: which groups it takes, and checks that concern several groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.addresses import (
    check_rank,
    check_server_address,
)
from leash.ps.options.base import (
    Options,
    argument,
    check_positive,
    option,
)
from leash.ps.options.rule import RuleGroup
from leash.ps.options.task import TaskGroup
from leash.ps.options.worker import (
    KEY_HELP,
    ConnectionGroup,
)

REASON_MAX: Final = 500  # characters; so that a message has room for it


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
