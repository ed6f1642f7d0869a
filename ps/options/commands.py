"""All settings: what they mean, and their defaults, once. They are made of leash.ps.options.base.

Those of the optimizer are in leash.ps.options.optimizer, a worker's own in leash.ps.options.inner.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.experiments.options import ExperimentConfig as ExperimentConfig  # noqa: PLC0414
from leash.ps.options.addresses import DEFAULT_ADDRESS, address_of, parse_learners, split_address
from leash.ps.options.base import Options, check_not_negative, check_positive, flag, option
from leash.ps.options.bench import BenchConfig as BenchConfig  # noqa: PLC0414  # ps.cli finds it here
from leash.ps.options.catalog import choose_task
from leash.ps.options.em import EmConfig as EmConfig  # noqa: PLC0414  # likewise
from leash.ps.options.inner import InnerOptions, check_inner_belongs
from leash.ps.options.optimizer import OptimizerOptions
from leash.ps.options.plan import PlanOptions, choose_data_plan
from leash.ps.options.rule import RuleOptions
from leash.ps.options.staleness import StalenessOptions, check_softens
from leash.ps.report.options import ReportConfig as ReportConfig  # noqa: PLC0414
from leash.ps.simulate.options import SimulateConfig as SimulateConfig  # noqa: PLC0414
from leash.ps.slowness.by_rank import parse_allocation, parse_heterogeneity, parse_slow
from leash.ps.wire.messages import EPOCH_MAX

INT8_BLOCKS: Final = (64, 65536)  # smallest and largest
TOPK_RATIO_MAX: Final = 0.5  # beyond it the indices cost more than they save
MAX_SHARDS: Final = 64
SHARDS_HELP: Final = "server processes that share the model, 1 to 64; workers talk to all of them"
MAX_SERVER_THREADS: Final = 256  # of the core's ThreadPool


def check_threads(config: Options, name: str) -> None:
    """Raises UsageError for a number of threads that the core's pool does not take."""
    threads = getattr(config, name)
    if not 1 <= threads <= MAX_SERVER_THREADS:
        raise UsageError(f"{flag(name)} {threads}: give a number from 1 to {MAX_SERVER_THREADS}")


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    title: ClassVar[str] = "server"

    bind: str = option(
        DEFAULT_ADDRESS,
        "where to listen; port P takes control messages and P+1 data, each further shard the next; "
        "0 or * takes free ports",
        metavar="tcp://IP:PORT",
    )
    workers: int = option(1, "how many workers take part, with the ranks 1 to N", metavar="N")
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
    rejoin_s: float = option(
        30.0, "when every worker is gone, wait so long for one to come back", metavar="SECONDS"
    )
    chunk_kib: int = option(1024, "size of a chunk; a multiple of 64", metavar="KIB")
    threads: int = option(1, "threads that share the work on a large chunk", metavar="N")
    window: int = option(16, "chunks that one worker may have in flight", metavar="CHUNKS")
    shards: int = option(1, SHARDS_HELP, metavar="N")
    observers: int = option(
        0, "evaluators to wait for before the start, beside the workers", metavar="N"
    )
    ready_fd: int | None = option(
        None,
        "write the address to this open file descriptor when listening, and leave "
        "config.yaml to whoever reads it",
        metavar="FD",
    )

    def check(self) -> None:
        super().check()
        split_address(address_of(self.bind, self.ps_ip, self.ps_port))
        parse_learners(self.learners, self.workers)
        check_positive(self, "workers", "evict_s", "rejoin_s", "window")
        check_threads(self, "threads")
        check_not_negative(self, "observers")
        check_shards(self.shards)
        if self.chunk_kib < 64 or self.chunk_kib % 64:
            raise UsageError(f"--chunk-kib {self.chunk_kib}: give a multiple of 64")
        if self.this_rank != 0:
            raise UsageError(f"--this-rank {self.this_rank}: the server's rank is 0; "
                             "leash worker takes the others")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    title: ClassVar[str] = "run"

    run_dir: str | None = option(
        None, "what the run leaves goes here; default: runs/DATE-TIME-POLICY",
        "--save-path", metavar="DIR",
    )  # fmt: skip
    resume: str | None = option(
        None, "begin with the values of this checkpoint", metavar="FILE.safetensors"
    )
    checkpoint_epochs: int = option(
        0, "write a checkpoint every N epochs; one is always written at the end", metavar="N"
    )
    step_events: int = option(
        1, "record every Nth step of each worker in events.jsonl; 0 records none", metavar="N"
    )
    timeout_s: float | None = option(
        None, "end cleanly after so long a training", "--timeout", metavar="SECONDS"
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "timeout_s")
        check_not_negative(self, "checkpoint_epochs", "step_events")


@dataclass(frozen=True, kw_only=True)
class TaskOptions(Options):
    title: ClassVar[str] = "model and data"

    model: str | None = option(
        None, "a name such as mnist_cnn, or module:function that returns a torch module",
    )  # fmt: skip
    dataset: str | None = option(
        None,
        "digits, mnist, cifar10, imagefolder, synthetic, or module:function that returns a pair "
        "of torch data sets; default: the one that the model is known for",
    )
    data_dir: str | None = option(None, "folder of the data set", metavar="DIR")
    download: bool = option(False, "fetch the data set when it is not there")
    len_train_data: int | None = option(None, "use only the first N training samples", metavar="N")
    test_batch_size: int = option(1000, "batch size of evaluations", "--test-bsz", metavar="N")
    image_size: int = option(64, "imagefolder: side of the square images", metavar="PIXELS")
    loader_workers: int = option(2, "imagefolder: processes that read images", metavar="N")
    seed: int | None = option(
        None, "of initial values, data order and dropout; default: the server's, or 1"
    )
    epochs: int | None = option(
        None, "passes over the training data; default: the server's, or 1", metavar="N"
    )

    def check(self) -> None:
        super().check()
        choose_task(self.model, self.dataset)
        check_positive(self, "len_train_data", "test_batch_size", "image_size", "epochs")
        check_not_negative(self, "loader_workers", "seed")
        if self.epochs is not None and self.epochs > EPOCH_MAX:
            raise UsageError(f"--epochs {self.epochs}: give at most {EPOCH_MAX}")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
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
class TransportOptions(Options):
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
class StragglerOptions(Options):
    title: ClassVar[str] = "stragglers, made on purpose"

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
class TimeScaleOptions(Options):
    title: ClassVar[str] = "experiments"

    time_scale: float = option(
        1.0,
        "how long a second of the experiment takes: 0.1 shortens the delays to a tenth, and takes "
        "off them what computing takes too long, so that all proportions are kept",
        metavar="FACTOR",
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "time_scale")


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions(Options):
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
class RankOptions(Options):
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


@dataclass(frozen=True, kw_only=True)
class ServerConfig(
    ServerOptions, RuleOptions, PlanOptions, OptimizerOptions, StalenessOptions, TaskOptions,
    RunOptions, TimeScaleOptions,
):  # fmt: skip
    """Keep the parameters, and apply what workers push."""

    def check(self) -> None:
        super().check()
        self.rule().require_workers(len(parse_learners(self.learners, self.workers)))
        check_softens(self, self.optimizer, self.rule())


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(
    ConnectionOptions, RankOptions, TaskOptions, TrainingOptions, InnerOptions, TransportOptions,
    StragglerOptions, TimeScaleOptions,
):  # fmt: skip
    """Train on a share of the data: push gradients, pull parameters."""

    def check(self) -> None:
        super().check()
        parse_slow(self.slow, 1)
        parse_heterogeneity(self.heterogeneity, 1)
        if self.hetero_allocation is not None and self.learners is not None:
            parse_allocation(self.hetero_allocation, len(parse_learners(self.learners, 1)))


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(Options):
    title: ClassVar[str] = "launch"

    workers: int = option(2, "how many workers to start on this machine", metavar="N")
    shards: int = option(1, SHARDS_HELP, metavar="N")
    server_threads: int = option(
        1, "threads that share the work on a large chunk in the server", metavar="N"
    )
    report: bool = option(False, "leave a page of pictures, as leash report does")

    def check(self) -> None:
        super().check()
        check_positive(self, "workers")
        check_shards(self.shards)
        check_threads(self, "server_threads")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(
    LaunchOptions, TaskOptions, RuleOptions, PlanOptions, OptimizerOptions, StalenessOptions,
    InnerOptions, TrainingOptions, TransportOptions, StragglerOptions, TimeScaleOptions, RunOptions,
):  # fmt: skip
    """Start a server, workers and an evaluator on this machine, and watch them."""

    def check(self) -> None:
        super().check()
        self.rule().require_workers(self.workers)
        check_softens(self, self.optimizer, self.rule())
        parse_slow(self.slow, self.workers)
        parse_heterogeneity(self.heterogeneity, self.workers)
        check_inner_belongs(self, self.local_steps)
        if self.hetero_allocation is not None:
            parse_allocation(self.hetero_allocation, self.workers)
        data_plan_of(self)
        if self.model is None and self.dataset is None:
            raise UsageError("say what to train: for example --dataset digits, or --model "
                             "mnist_cnn --data-dir DIR")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    title: ClassVar[str] = "evaluation"

    run_dir: str | None = option(None, "write TensorBoard files below this folder", metavar="DIR")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    threads: int = option(1, "threads that torch uses", metavar="N")

    def check(self) -> None:
        super().check()
        check_positive(self, "threads")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ConnectionOptions, TaskOptions, EvaluateOptions):
    """Watch a run as an observer, and measure the test accuracy after each epoch."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(Options):
    title: ClassVar[str] = "status"

    json: bool = option(False, "print the state as JSON")
    watch: bool = option(False, "keep the table up to date until the run ends")


@dataclass(frozen=True, kw_only=True)
class StatusConfig(ConnectionOptions, StatusOptions):
    """Show how a run stands."""

    # Whoever asks how a run stands believes that it runs.
    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")


@dataclass(frozen=True, kw_only=True)
class SetConfig(ConnectionOptions, RuleOptions):
    """Change the policy of a run that goes on. What is not given has its default."""

    wait_s: float = option(3.0, "wait so long for the server to answer", metavar="SECONDS")

    def check(self) -> None:
        super().check()
        if self.policy is None and self.staleness is None:
            raise UsageError("say what to change: for example --policy ssp --staleness 5")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Options):
    """Check this installation, and the way to a server."""

    title: ClassVar[str] = "what to check"

    server: str | None = option(
        None, "also check the server at this address", metavar="tcp://HOST:PORT"
    )

    def check(self) -> None:
        super().check()
        if self.server is not None:
            split_address(self.server)


def data_plan_of(config: LaunchConfig) -> str:
    """The data plan of a launch. Raises UsageError for fixed shares together with leases."""
    policy = config.rule().policy.name
    return choose_data_plan(config, policy, has_allocation=config.hetero_allocation is not None)


def check_shards(shards: int) -> None:
    """Raises UsageError for a number of shards that no run can have."""
    if not 1 <= shards <= MAX_SHARDS:
        raise UsageError(f"--shards {shards}: give 1 to {MAX_SHARDS}")
