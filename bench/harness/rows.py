"""The rows that every benchmark leaves, with their conditions, as JSON."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from leash._extras import is_installed
from leash.bench.harness.trial import Times, Trial
from leash.ps import _core


@dataclass(frozen=True, kw_only=True)
class Row(Trial):
    """One measurement. Sizes in bytes, times in seconds, GB are 10^9 bytes.

    A figure that its benchmark does not measure is None.
    """

    warmup: int
    repeats: int
    median_s: float
    p99_s: float
    per_s: float  # all workers together: the sum of 1 / the median of each
    gbytes_per_s: float  # nbytes × per_s
    # The largest that others took of the processors during a round, of those that count.
    foreign_share: float | None = None
    # What workers and servers execute in user space for one exchange, and by what it is counted.
    instructions: float | None = None
    instructions_by: str | None = None
    traffic_nbytes: int | None = None  # what a kernel has to read and write in all
    flops: int | None = None
    bandwidth_share: float | None = None  # to what memory can do for that kind of traffic
    reference: str | None = None  # how the latter was measured
    server_cpu_s: float | None = None  # what all threads of the server use for one message
    server_loop_s: float | None = None  # what the loop's thread uses of that
    server_core_s: float | None = None  # of the latter, C++: the core, with its lane
    hidden_share: float | None = None  # the part of an exchange that overlaps backward
    longest_s: float | None = None  # the longest repeat of all
    # The repeats, over those beside an attacker that does no harm, or without a page.
    kept: float | None = None
    page_cpu_share: float | None = None  # of one processor, that the process of the page takes
    page_age_p95_s: float | None = None  # how old what it shows is when a browser has it
    server_peak_nbytes: int | None = None  # of memory
    target: float | None = None  # a test accuracy, from 0 to 1
    to_target_s: float | None = None  # from the first step until that was known to be reached
    accuracy: float | None = None  # of the test set in the end, from 0 to 1
    lr: float | None = None
    # The training loss of each seed, before the first update and at even distances up to the last;
    # None where it was no number.
    losses: list[list[float | None]] | None = None
    commit: str
    cpu: str
    cores: int
    instruction_set: str
    versions: str


def make_row(trial: Trial, times: Times, **figures: Any) -> Row:
    """Makes the row of a trial that has been measured."""
    together = sorted(t for of_worker in times.by_worker for t in of_worker)
    per_s = sum(1 / statistics.median(of_worker) for of_worker in times.by_worker)
    measured = {
        "warmup": times.warmup,
        "repeats": len(together),
        "median_s": statistics.median(together),
        "p99_s": together[min(len(together) - 1, int(0.99 * len(together)))],
        "per_s": per_s,
        "gbytes_per_s": trial.nbytes * per_s / 1e9,
        "foreign_share": times.foreign_share,
    }
    return Row(**asdict(trial), **measured, **figures, **conditions())  # type: ignore[arg-type]


@cache
def conditions() -> dict[str, str | int]:
    """The conditions that hold for every row of a run."""
    return {
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_set": _core.instruction_set(),
        "versions": _versions(),
    }


def _commit() -> str:
    """The commit that is measured, with a + if the tree has changes."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=Path(__file__).parent,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:  # there is no git
        return "unknown"
    return told.stdout.strip() or "unknown"


def _cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text("utf-8").splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> str:
    modules = {"numpy": "numpy", "zmq": "pyzmq", "torch": "torch"}
    told = [f"{name} {version(name)}" for module, name in modules.items() if is_installed(module)]
    return ", ".join([f"Python {platform.python_version()}", *told])


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")


def read_json(path: Path) -> list[Row]:
    """Reads the rows of a file that `write_json` wrote."""
    return [Row(**row) for row in json.loads(path.read_text("utf-8"))]
