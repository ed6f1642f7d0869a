"""The options of a worker: its place in the run, its training, how its gradients travel."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.addresses import DEFAULT_ADDRESS, address_of, parse_learners, split_address
from leash.ps.options.base import Options, check_positive, option

INT8_BLOCKS: Final = (64, 65536)  # smallest and largest


TOPK_RATIO_MAX: Final = 0.5  # beyond it the indices cost more than they save


@dataclass(frozen=True, kw_only=True)
class TrainingGroup(Options):
    title: ClassVar[str] = "training"

    batch_size: int = option(32, "samples in a worker's step", metavar="N")
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

    def check(self) -> None:
        super().check()
        block = self.int8_block
        if not INT8_BLOCKS[0] <= block <= INT8_BLOCKS[1] or block & (block - 1):
            raise UsageError(f"--int8-block {block}: give a power of two from {INT8_BLOCKS[0]} to "
                             f"{INT8_BLOCKS[1]}")  # fmt: skip
        if not 0 < self.topk_ratio <= TOPK_RATIO_MAX:
            raise UsageError(f"--topk-ratio {self.topk_ratio}: give a number above 0, and at most "
                             f"{TOPK_RATIO_MAX}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SlownessGroup(Options):
    title: ClassVar[str] = "slowness, made on purpose"

    slow: str = option(
        "0",
        "sleep so long before every step: 0.2, a list by rank 0.2,0.3, a distribution exp:0.2, "
        "pauses such as 0.2+pause:chance=0.02,for=5, or by time 0.2@..60+0.8@60..; all from the "
        "seed; a list of what has a colon takes / for its commas",
        metavar="SECONDS,...",
    )
    heterogeneity: str = option(
        "1", "a worker of heterogeneity r takes 1/r times as long for a step", metavar="R,..."
    )
    hetero_allocation: str | None = option(
        None, "split the data in this proportion, a number per worker", metavar="1.0-0.5"
    )


@dataclass(frozen=True, kw_only=True)
class ConnectionGroup(Options):
    title: ClassVar[str] = "connection"

    server: str = option(DEFAULT_ADDRESS, "address of the server", metavar="tcp://HOST:PORT")
    ps_ip: str | None = option(None, "the host part of the address alone", metavar="IP")
    ps_port: int | None = option(None, "the port of the address alone", metavar="PORT")
    wait_s: float = option(30.0, "wait so long for the server to answer", metavar="SECONDS")

    def check(self) -> None:
        super().check()
        split_address(address_of(self.server, self.ps_ip, self.ps_port))
        check_positive(self, "wait_s")


@dataclass(frozen=True, kw_only=True)
class RankGroup(Options):
    title: ClassVar[str] = "worker"

    rank: int = option(1, "this worker's number, from 1", "--this-rank", metavar="N")
    learners: str | None = option(
        None, "the ranks that take part; default: what the server says", metavar="1-2-3"
    )
    save_path: str | None = option(None, "leave this worker's summary here", metavar="DIR")
    timeout_s: float | None = option(
        None, "end cleanly after so long a training", "--timeout", metavar="SECONDS"
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "rank", "timeout_s")
        if self.learners is not None and self.rank not in parse_learners(self.learners, 1):
            raise UsageError(f"--rank {self.rank}: not among --learners {self.learners}; "
                             "give one of those ranks")  # fmt: skip
