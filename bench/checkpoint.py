"""What does a checkpoint cost those who train meanwhile?

A worker pushes and pulls 64 MB of a model of 2 GB, again and again: to a server that writes no
checkpoint, and to one that writes one after the other in the background. Only exchanges during
which one was being written count there. The run directory is below the folder for temporary files,
which TMPDIR chooses.

    python -m leash.bench.checkpoint [--short] [--json FILE] [--picture FILE]
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from leash.bench.command import bench_main
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.simulated_workers import SimulatedWorkers
from leash.bench.harness.trial import Round, Times, Trial
from leash.bench.harness.workload import CHUNK_NBYTES, LR
from leash.bench.options import BenchOptions
from leash.bench.systems.leash import server
from leash.ps.errors import LeashError

TITLE = "checkpoint: push_pull of a part of a model, while all of it is being written"
PEERS = ()

# Chunks of 1 MiB: pushed, of the whole model; exchanges in a round, and rounds.
MEASURED: Final = (64, 1907, 100, 10)
SHORT: Final = (16, 191, 20, 2)
ALONE, WHILE_WRITTEN = "no checkpoint", "one being written"
EVERY: Final = {ALONE: "never", WHILE_WRITTEN: "1u"}
WRITTEN_S: Final = 120.0  # a checkpoint takes less than that, or nothing is measured
LOOK_S: Final = 0.02
LOOK_AGAIN: Final = threading.Event()  # that nobody sets


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures both rows; leash.bench.push_pull explains the arguments."""
    pushed, chunks, exchanges, rounds = SHORT if options.short else MEASURED
    times: dict[str, list[float]] = {ALONE: [], WHILE_WRITTEN: []}
    with ExitStack() as stack:
        running: dict[str, Round] = {}
        for i, (case, every) in enumerate(EVERY.items()):
            doing(f"values for {chunks} MiB, {case}", 0.1 * i)
            running[case] = stack.enter_context(_rounds(every, pushed, chunks, exchanges))
        for number in range(rounds):
            for case, go in running.items():
                doing(f"{case}, round {number + 1} of {rounds}", 0.2 + 0.8 * number / rounds)
                times[case] += go(0.0)[0]
    return [
        make_row(
            Trial(bench="checkpoint", system="leash", transport="tcp",
                  case=f"model of {chunks} MiB, {case}", nbytes=pushed * CHUNK_NBYTES),
            Times(2, (of_case,)),
        )
        for case, of_case in times.items()
    ]  # fmt: skip


@contextmanager
def _rounds(every: str, pushed: int, chunks: int, exchanges: int) -> Iterator[Round]:
    """Starts a server with its worker; a round has so many exchanges that count."""
    with tempfile.TemporaryDirectory() as folder:
        options = (
            "--policy=asp", "--workers=1", f"--lr={LR}", "--evict-s=3600", f"--window={pushed}",
            f"--checkpoint-every={every}", f"--run-dir={folder}/run",
        )  # fmt: skip
        beside = Path(folder, "run", "checkpoints", "latest.safetensors.unfinished")
        with (
            server(*options) as (address, _),
            closing(SimulatedWorkers(address, 1, chunks, CHUNK_NBYTES, pushed)) as workers,
        ):

            def round_(_: float) -> list[list[float]]:
                is_written = every != EVERY[ALONE]
                times: list[float] = []
                deadline_s = time.perf_counter() + WRITTEN_S
                for _ in range(2):  # of a warm-up, which also makes a checkpoint due
                    workers.go(lambda: True)
                while len(times) < exchanges:
                    was_there, began_s = beside.exists(), time.perf_counter()
                    workers.go(lambda: True)
                    took_s = time.perf_counter() - began_s
                    if was_there or not is_written:
                        times.append(took_s)
                    elif time.perf_counter() > deadline_s and not times:
                        raise LeashError("checkpoint: the server writes none")
                _await_end(beside)
                return [times]

            yield round_


def _await_end(beside: Path) -> None:
    """Waits until nothing is being written: not beside what the other server is asked."""
    deadline_s, free = time.perf_counter() + WRITTEN_S, 0
    while free < 10:  # the next may be begun in a moment
        free = 0 if beside.exists() else free + 1
        if time.perf_counter() > deadline_s:
            raise LeashError(f"checkpoint: {beside} is still being written")
        LOOK_AGAIN.wait(LOOK_S)


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("checkpoint", argv)


if __name__ == "__main__":
    raise SystemExit(main())
