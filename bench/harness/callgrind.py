"""Counts the instructions that processes execute in user space, in Valgrind's simulated processor.

It needs no counters of a real one. All processes of a trial, with all that they start, run under
callgrind, which counts only while it is told to: so they start fast, and then do a handful of
exchanges. Valgrind runs one thread of a process at a time, and knows no AVX-512, so that kernels
are those of AVX2. Counts of the same program differ by a few percent, since polls and beats depend
on time.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path
from typing import Final

from leash.bench.harness.process_tree import PROC
from leash.bench.harness.trial import Round
from leash.ps.errors import LeashError

WARM_ROUNDS: Final = 2  # each has one exchange, or a few
COUNTED_ROUNDS: Final = 8
TOLD_WITHIN_S: Final = 60.0  # a process says within that what it has counted
TOTALS: Final = "totals:"  # before the number of instructions, in a file that callgrind writes


def require_callgrind() -> None:
    """Raises LeashError, with the package to install, if there is no Valgrind."""
    if not all(map(shutil.which, ("valgrind", "vgdb"))):
        raise LeashError("--instructions needs valgrind, which is not installed: "
                         "apt install valgrind, or leave --instructions out")  # fmt: skip


@contextmanager
def under_callgrind(folder: Path) -> Iterator[None]:
    """Has Python processes that are started meanwhile run under callgrind.

    Args:
        folder: for what it writes; must stay there as long as they run.
    """
    options = (
        "--quiet", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no",
        f"--log-file={folder}/log.%p", f"--callgrind-out-file={folder}/out.%p",
    )  # fmt: skip
    before, python = sys.executable, folder / "python"
    command = shlex.join(["valgrind", *options, before])
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n', "utf-8")
    python.chmod(0o700)
    spawned = spawn.get_executable()
    try:
        sys.executable = str(python)  # which `leash.ps.processes` starts
        spawn.set_executable(str(python))
        yield
    finally:
        sys.executable = before
        spawn.set_executable(spawned)


def count_under_callgrind(go: Round, processes: Collection[int], folder: Path) -> float:
    """Counts the instructions of these processes for one exchange.

    Args:
        go: runs a round.
        processes: that take part in it; those that do not run under callgrind are left out.
        folder: where they write.

    Raises:
        LeashError: one of them does not answer.
    """
    simulated = [process for process in processes if _is_simulated(process)]
    for process in simulated:
        _tell(process, "instrumentation", "on")
    for _ in range(WARM_ROUNDS):
        go(0.0)
    for process in simulated:
        _tell(process, "zero")
    exchanges = sum(len(times) for _ in range(COUNTED_ROUNDS) for times in go(0.0))
    for process in simulated:
        _tell(process, "dump")
    return sum(_total(folder / f"out.{process}.1") for process in simulated) / exchanges


def _is_simulated(process: int) -> bool:
    try:
        return (PROC / str(process) / "exe").readlink().name.startswith("callgrind")
    except FileNotFoundError:  # it has ended
        return False


def _tell(process: int, *words: str) -> None:
    """Gives callgrind an order, and waits until it is carried out."""
    try:
        subprocess.run(["vgdb", f"--pid={process}", *words], capture_output=True, check=True,
                       timeout=TOLD_WITHIN_S)  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LeashError(f"callgrind does not answer: {error}") from error


def _total(path: Path) -> int:
    """The number of instructions in a file that callgrind wrote."""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith(TOTALS):
            return int(line.removeprefix(TOTALS))
    raise LeashError(f"callgrind has written no {TOTALS!r} to {path}")
