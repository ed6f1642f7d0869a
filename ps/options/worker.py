"""The options of `leash worker`, with their defaults: its place in the run, training, transport.

Those of model, data and time scale are in task.py; how fast it learns, the server tells it.
`WorkerOptions` puts all groups together; `batch_size` is `--batch-size` on the command line.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.addresses import (
    DEFAULT_ADDRESS,
    address_of,
    check_rank,
    check_server_address,
    parse_learners,
)
from leash.ps.options.base import Options, check_positive, option
from leash.ps.options.task import TaskGroup, TimeScaleGroup
from leash.ps.slowness.by_rank import parse_allocation, parse_heterogeneity, parse_slow
from leash.ps.slowness.grammar import FORMS_HELP, SEPARATORS_HELP, Slowness
from leash.ps.wire.codecs import check_encoding
from leash.ps.wire.requester import PATIENCE_S
from leash.ps.words import KEY_VARIABLE

LEAVE_GRACE_S: Final = 10.0  # a worker that is told to go may take so long
GRACE_MAX_S: Final = 86400.0


@dataclass(frozen=True, kw_only=True)
class TrainingGroup(Options):
    """The options of how a worker computes."""

    title: ClassVar[str] = "training"

    batch_size: int = option(
        32, "samples in a worker's step; a single one that is left over joins the step before it",
        metavar="N",
    )  # fmt: skip
    drop_last: bool = option(
        False, "leave out the samples that do not fill a batch, at the end of a share or a lease"
    )
    dropout: bool = option(True, "dropout in the models that have it")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    threads: int = option(1, "threads that torch uses in one worker", metavar="N")
    overlap: bool = option(
        True,
        "send gradients while backward still computes others, if the model is more than one chunk "
        "and there are no local steps; one that runs backward through a parameter more than once a "
        "step needs --no-overlap",
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "batch_size", "threads")


@dataclass(frozen=True, kw_only=True)
class TransportGroup(Options):
    """The options of how gradients travel."""

    title: ClassVar[str] = "transport"

    transport: Literal["auto", "tcp", "shm"] = option(
        "auto", "shm: memory shared with a server on this host; auto: that where it is possible, "
        "otherwise tcp",
    )  # fmt: skip
    codec: Literal["f32", "bf16", "f16", "int8", "topk"] = option(
        "f32", "how gradients are written: bf16 and f16 halve them, and the parameters too; int8 "
        "quarters them; topk sends the largest alone",
    )  # fmt: skip
    int8_block: int = option(256, "values that share a scale of int8", metavar="VALUES")
    topk_ratio: float = option(0.01, "share of a chunk's values that topk sends")
    answer_codec: Literal["f32", "bf16", "f16"] | None = option(
        None, "how parameters are written that come over TCP: bf16 and f16 halve them, beside int8 "
        "and topk too; by default as --codec says",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        check_encoding(self.codec, self.int8_block, self.topk_ratio, self.answer_codec)


@dataclass(frozen=True, kw_only=True)
class PatienceGroup(Options):
    """The option of how long a process that takes part bears an outage."""

    title: ClassVar[str] = "outages"

    patience: float = option(
        PATIENCE_S, "a worker that takes part keeps trying for so long when nobody answers, and "
        "then goes on by itself; a server whose disk cannot take the last checkpoint waits so "
        "long, at the end, for the disk or for leash save; inf for ever", metavar="SECONDS",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if not self.patience > 0:  # nor is it a NaN
            raise UsageError(f"--patience {self.patience}: give a number above 0, or inf")


@dataclass(frozen=True, kw_only=True)
class LeavingGroup(Options):
    """The options of how a worker leaves that is told to go."""

    title: ClassVar[str] = "leaving"

    grace_s: float = option(
        LEAVE_GRACE_S, "a worker that is told to go (SIGTERM, leash leave, or the file below) ends "
        "its step, pushes what is pending and leaves; it has so long for that, and then it goes "
        "at once. Its exit status is 143", metavar="SECONDS",
    )  # fmt: skip
    preempt_file: str | None = option(
        None, "leave once this file is there, as a spot machine's agent makes it", metavar="PATH",
        is_path=True,
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if not 0 <= self.grace_s <= GRACE_MAX_S:  # nor is it a NaN
            raise UsageError(f"--grace-s {self.grace_s}: give a number from 0 to {GRACE_MAX_S:.0f}")


@dataclass(frozen=True, kw_only=True)
class SlownessGroup(Options):
    """The options that make workers slow on purpose."""

    title: ClassVar[str] = "slowness, made on purpose"

    slow: str = option(
        "0",
        f"sleep so long before every step: {FORMS_HELP}; all from the seed; {SEPARATORS_HELP}",
        metavar="SECONDS,...",
    )
    heterogeneity: str = option(
        "1", "a worker of heterogeneity r takes 1/r times as long for a step", metavar="R,..."
    )
    hetero_allocation: str | None = option(
        None, "split the data in this proportion, a number per worker", metavar="1.0-0.5"
    )


KEY_HELP: Final = (
    f"by which this process comes to a server that has keys: a file that leash keys new or leash "
    f"keys add has made; default: what the environment variable {KEY_VARIABLE} says"
)

# Of a command that starts a server, and hands keys to whom it starts.
KEYS_HELP: Final = (
    "let in those alone who have a key of this folder, and encrypt what travels; the folder is "
    "made, with a key for each worker, where it is not there"
)


@dataclass(frozen=True, kw_only=True)
class ConnectionGroup(Options):
    """The options that say where the server is."""

    title: ClassVar[str] = "connection"

    server: str = option(DEFAULT_ADDRESS, "address of the server", metavar="tcp://HOST:PORT")
    ps_ip: str | None = option(None, "the host part of the address alone", metavar="IP")
    ps_port: int | None = option(None, "the port of the address alone", metavar="PORT")
    key: str | None = option(None, KEY_HELP, metavar="FILE", is_path=True)
    wait_s: float = option(30.0, "wait so long for the server to answer", metavar="SECONDS")

    def check(self) -> None:
        super().check()
        check_server_address(address_of(self.server, self.ps_ip, self.ps_port))
        check_positive(self, "wait_s")


@dataclass(frozen=True, kw_only=True)
class RankGroup(Options):
    """The options of a worker's place in the run."""

    title: ClassVar[str] = "worker"

    rank: int | Literal["auto"] = option(
        1, "this worker's number, from 1; auto: the server gives it one, and a machine that comes "
        "back the one that it had", "--this-rank", metavar="N|auto",
    )  # fmt: skip
    learners: str | None = option(
        None, "the ranks that take part; default: what the server says", metavar="1-2-3"
    )
    save_path: str | None = option(
        None, "leave this worker's summary here", metavar="DIR", is_path=True
    )
    timeout_s: float | None = option(
        None, "end cleanly after so long a training", "--timeout", metavar="SECONDS"
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "timeout_s")
        if isinstance(self.rank, str):
            return
        check_rank(self.rank)
        if self.learners is not None and self.rank not in parse_learners(self.learners, 1):
            raise UsageError(f"--rank {self.rank}: not among --learners {self.learners}; "
                             "give one of those ranks")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(
    ConnectionGroup, RankGroup, PatienceGroup, LeavingGroup, TaskGroup, TrainingGroup,
    TransportGroup, SlownessGroup, TimeScaleGroup,
):  # fmt: skip
    """Train on a share of the data: push gradients, pull parameters."""

    def check(self) -> None:
        super().check()
        _ = self.slowness, self.ratio  # reading them raises UsageError if they are wrong
        if self.hetero_allocation is not None and self.learners is not None:
            parse_allocation(self.hetero_allocation, len(parse_learners(self.learners, 1)))

    @cached_property
    def slowness(self) -> Slowness:
        """This worker's slowness, from --slow. Raises UsageError."""
        return parse_slow(self.slow, 1)[0]

    @cached_property
    def ratio(self) -> float:
        """This worker's heterogeneity. Raises UsageError."""
        return parse_heterogeneity(self.heterogeneity, 1)[0]
