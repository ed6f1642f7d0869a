"""The options of `leash bench`: which benchmarks there are, and what each can be asked to vary."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.base import (
    Options,
    _parse,
    argument,
    check_positive,
    flag,
    option,
    parse_counts,
)
from leash.ps.wire.codecs import CODEC_NAMES

# How parameters may travel: as a codec says, or gradients in it and the answers in another one.
MEASURED_CODECS: Final = (*CODEC_NAMES, "int8+bf16", "topk+bf16")
MEASURED_POLICIES: Final = ("bsp", "ssp", "asp")

# Benchmark ▸ the options that it takes; all of them take --short, --json and --picture.
BENCHMARKS: Final = {
    "kernels": ("sizes", "rounds", "round_s"),
    "push_pull": (
        "sizes", "workers", "shards", "transports", "codecs", "policies", "systems",
        "bandwidth_gbit", "instructions", "rounds", "round_s",
    ),
    "scaling": ("workers", "rounds", "round_s"),
    "training": ("workers", "rounds", "round_s"),
    "compensation": (),
    "checkpoint": (),
    "em": ("workers", "rounds"),
    "strangers": ("workers", "rounds", "round_s"),
    "page": ("workers", "rounds", "round_s"),
    "unequal": ("data_dir", "rounds"),
}  # fmt: skip
TRANSPORTS: Final = ("tcp", "shm")
MEASURED_SYSTEMS: Final = (
    "leash",
    "leash_keys",
    "gloo",
    "ddp",
    "rpc",
    "ray",
    "lane_echo",
    "zmq_echo",
)
PICTURE_SUFFIXES: Final = (".png", ".svg")
SMALLEST_NBYTES: Final = 4
LARGEST_NBYTES: Final = 1 << 36


@dataclass(frozen=True, kw_only=True)
class BenchGroup(Options):
    """The options that say what to measure."""

    title: ClassVar[str] = "what to measure"

    benchmark: Literal[
        "all",
        "kernels",
        "push_pull",
        "scaling",
        "training",
        "compensation",
        "checkpoint",
        "em",
        "strangers",
        "page",
        "unequal",
    ] = argument("all", "which question to ask (default: all of them)")
    short: bool = option(False, "few sizes and short rounds: a look, not a measurement")
    sizes: str | None = option(
        None, "kernels, push_pull: parameters, one way; 87e3 is 87 KB", metavar="BYTES,..."
    )
    workers: str | None = option(None, "how many workers", metavar="1,2,4,8")
    shards: str | None = option(None, "push_pull: how many server processes", metavar="1,2")
    transports: str | None = option(None, "push_pull: some of these", metavar=",".join(TRANSPORTS))
    codecs: str | None = option(None, "push_pull: some of these", metavar=",".join(MEASURED_CODECS))
    policies: str | None = option(
        None, "push_pull: of Leash, some of these (default: asp)",
        metavar=",".join(MEASURED_POLICIES),
    )  # fmt: skip
    systems: str | None = option(
        None, "push_pull: some of these", metavar=",".join(MEASURED_SYSTEMS)
    )
    bandwidth_gbit: float | None = option(
        None, "push_pull: of a slow network, the server's link, each way; for what can go over it",
        metavar="GBIT/S",
    )  # fmt: skip
    instructions: bool = option(
        False, "push_pull: count instructions by callgrind, which is slow, where the processor's "
        "own counters cannot be read",
    )  # fmt: skip
    data_dir: str | None = option(
        None, "unequal: folder of MNIST; default: what the environment variable MNIST says, or "
        "else scikit-learn's digits", metavar="DIR", is_path=True,
    )  # fmt: skip
    rounds: int | None = option(None, "of each system, in turn", metavar="N")
    round_s: float | None = option(None, "length of a round", metavar="SECONDS")

    def check(self) -> None:
        super().check()
        check_positive(self, "rounds", "round_s", "bandwidth_gbit")
        for name in set().union(*BENCHMARKS.values()):
            if getattr(self, name) not in (None, False):
                self._check_means_something(name)
        parse_sizes(self.sizes or "1e6")
        parse_counts("--workers", self.workers or "1")
        parse_counts("--shards", self.shards or "1")
        for name, known in (
            ("transports", TRANSPORTS),
            ("codecs", MEASURED_CODECS),
            ("policies", MEASURED_POLICIES),
            ("systems", MEASURED_SYSTEMS),
        ):
            parse_words(flag(name), getattr(self, name) or known[0], known)

        if self.bandwidth_gbit is not None and "shm" in (self.transports or ""):
            raise UsageError(f"--transports {self.transports}: shared memory does not go over the "
                             "network of --bandwidth-gbit; give --transports tcp")  # fmt: skip

    def _check_means_something(self, name: str) -> None:
        if self.benchmark != "all" and name not in BENCHMARKS[self.benchmark]:
            takes = ", ".join(flag(other) for other in BENCHMARKS[self.benchmark])
            raise UsageError(f"{flag(name)}: means nothing to {self.benchmark}; it takes "
                             f"{takes or 'none of these'}")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BenchOutputGroup(Options):
    """The options that say where the rows go."""

    title: ClassVar[str] = "what to leave"

    json: str | None = option(
        None, "write the rows here; with all, a folder for a file of each", metavar="FILE",
        is_path=True,
    )  # fmt: skip
    picture: str | None = option(
        None, "draw the rows here, png or svg; with all, a folder for an svg of each",
        metavar="FILE", is_path=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BenchOptions(BenchGroup, BenchOutputGroup):
    """Measure this installation, side by side with others, in one run."""

    def check(self) -> None:
        super().check()
        for name in ("json", "picture"):
            if (path := getattr(self, name)) is not None:
                self._check_place(flag(name), Path(path))
        if (
            self.picture
            and self.benchmark != "all"
            and Path(self.picture).suffix not in PICTURE_SUFFIXES
        ):
            raise UsageError(f"--picture {self.picture}: give a name that ends in .png or .svg")

    def _check_place(self, option_flag: str, path: Path) -> None:
        if self.benchmark == "all" and path.is_file():
            raise UsageError(f"{option_flag} {path}: is a file; all benchmarks need a folder")
        if self.benchmark != "all" and path.is_dir():
            raise UsageError(f"{option_flag} {path}: is a folder; give the name of a file")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The benchmarks to run, in the order of `BENCHMARKS`."""
        return tuple(BENCHMARKS) if self.benchmark == "all" else (self.benchmark,)


def parse_sizes(text: str) -> list[int]:
    """Reads sizes in bytes from ``87e3,4e6``, and rounds them to whole 4-byte values.

    Raises:
        UsageError: not numbers, or a size that no model has.
    """
    sizes = _parse("--sizes", text, float, "numbers of bytes, such as 87e3,4e6")
    if not all(SMALLEST_NBYTES <= size <= LARGEST_NBYTES for size in sizes):
        raise UsageError(f"--sizes {text}: give bytes, from {SMALLEST_NBYTES} to {LARGEST_NBYTES}")
    return [int(size) // 4 * 4 for size in sizes]


def parse_words(option_flag: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Reads words from ``tcp,shm``. Raises UsageError for one that is not among `known`."""
    words = text.split(",")
    for word in words:
        if word not in known:
            raise UsageError(f"{option_flag} {text}: expected some of {', '.join(known)}")
    return words
