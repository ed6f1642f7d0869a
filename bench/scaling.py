"""What does one more worker cost the server?

Three policies, from 1 to 64 workers, which one process simulates (harness/simulated_workers.py):
each pushes 16 chunks of 64 KiB a step. The operating system tells the CPU time of the server's
threads; the loop's thread is the one that runs Python, and harness/counted_server.py tells how much
of that is Python. The rest of it is the core, with its lane's calls of libzmq. Then the clock is
measured alone, with up to 100,000 workers.

    python -m leash.bench.scaling [--short] [--workers 1,4,64] [--json FILE] [--picture FILE]
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from leash.bench.command import bench_main
from leash.bench.harness.counted_server import COUNTS
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.simulated_workers import SimulatedWorkers
from leash.bench.harness.trial import Round, Times, Trial, alone, in_turn
from leash.bench.harness.workload import LR
from leash.bench.options import BenchOptions
from leash.bench.systems.leash import server
from leash.ps._core import StepClock
from leash.ps.options.base import parse_counts
from leash.ps.policy import ASP, BSP, SSP

TITLE = "scaling: one message is a push_pull of 64 KiB; then the clock alone"
PEERS = ("numpy_min",)

SCALING_WORKERS, SHORT_SCALING_WORKERS = "1,2,4,8,16,32,64", "1,4,64"
MESSAGE_NBYTES: Final = 64 * 1024
CHUNKS: Final = 16

POLICIES: Final = tuple(policy.name for policy in (BSP, SSP, ASP))

CLOCK_WORKERS: Final = (10, 100, 1_000, 10_000, 100_000)
TICKS: Final = 1_000  # one repeat has so many


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments."""
    counts = parse_counts(
        "--workers",
        options.workers or (SHORT_SCALING_WORKERS if options.short else SCALING_WORKERS),
    )
    rounds, round_s = options.rounds or (2 if options.short else 5), options.round_s or 0.5
    rows = measure_servers(counts, rounds, round_s, doing)
    for workers in CLOCK_WORKERS:
        doing(f"the clock, workers {workers}", 1.0)
        rows += measure_clock(workers, rounds, round_s / 10)
    return rows


# The server.


@dataclass(slots=True)
class Used:
    """The CPU seconds that a server has used."""

    all_s: float = 0.0  # all threads
    loop_s: float = 0.0  # the loop's thread: Python, the core, and its side of the sockets
    core_s: float = 0.0  # in that thread, the core, with a lane's calls of libzmq
    messages: int = 0

    def add(self, before: "Used", after: "Used", messages: int) -> None:
        self.all_s += after.all_s - before.all_s
        self.loop_s += after.loop_s - before.loop_s
        self.core_s += after.core_s - before.core_s
        self.messages += messages


def measure_servers(
    counts: list[int], rounds: int, round_s: float, doing: Callable[[str, float], None]
) -> list[Row]:
    """Measures throughput and the cost of a message, for each policy and number of workers."""
    running: dict[Trial, Round] = {}
    used: dict[Trial, Used] = {}
    with ExitStack() as stack:
        for workers, policy in itertools.product(counts, POLICIES):
            trial = Trial(bench="scaling", system="leash", case=policy, transport="tcp",
                          nbytes=MESSAGE_NBYTES, workers=workers)  # fmt: skip
            doing(f"{policy}, workers {workers}", len(running) / (2 * len(counts) * len(POLICIES)))
            used[trial] = Used()
            running[trial] = stack.enter_context(rounds_of(trial, used[trial]))
        doing("rounds", 0.5)
        times = in_turn(rounds, round_s, running)
    return [
        make_row(
            trial, times[trial],
            server_cpu_s=u.all_s / u.messages,
            server_loop_s=u.loop_s / u.messages,
            server_core_s=u.core_s / u.messages,
        )
        for trial, u in used.items()
    ]  # fmt: skip


@contextmanager
def rounds_of(trial: Trial, used: Used) -> Iterator[Round]:
    """Starts a server and its simulated workers; their rounds add to `used`."""
    with (
        counted_server(trial.case, trial.workers) as (address, used_so_far),
        closing(SimulatedWorkers(address, trial.workers, CHUNKS, MESSAGE_NBYTES)) as workers,
    ):

        def round_(seconds: float) -> list[list[float]]:
            before, began_s = used_so_far(), time.perf_counter()
            answered = workers.go(lambda: time.perf_counter() > began_s + seconds)
            elapsed_s = time.perf_counter() - began_s
            used.add(before, used_so_far(), answered)
            return [[elapsed_s / answered]]  # for one message

        yield round_


@contextmanager
def counted_server(policy: str, workers: int) -> Iterator[tuple[str, Callable[[], Used]]]:
    """Starts a server; gives its address, and a function that says what it has used so far."""
    with tempfile.TemporaryDirectory() as folder:
        counts = np.memmap(Path(folder) / "counts", np.float64, "w+", shape=COUNTS)
        # The only signs of life of simulated workers are their pushes.
        options = (f"--policy={policy}", f"--workers={workers}", "--evict-s=3600", f"--lr={LR}",
                   f"--chunk-kib={MESSAGE_NBYTES // 1024}")  # fmt: skip
        module = ("leash.bench.harness.counted_server", f"{folder}/counts")
        with server(*options, module=module) as (address, pid):
            threads = Path(f"/proc/{pid}/task")

            def used() -> Used:
                # The main thread, whose number is that of the process, runs the loop.
                loop_s = cpu_s(threads / str(pid))
                all_s = sum(cpu_s(thread) for thread in threads.iterdir())
                return Used(all_s, loop_s, loop_s - float(counts[0]))

            yield address, used


def cpu_s(thread: Path) -> float:
    """The CPU time of a thread, from its folder in /proc: exact, where others count ticks."""
    return int((thread / "schedstat").read_text().split()[0]) * 1e-9


# The clock.


def measure_clock(workers: int, rounds: int, round_s: float) -> list[Row]:
    """Times a tick with the question whether it may go on, and the same with numpy's minimum."""
    order = np.random.default_rng(1).permutation(workers)
    ranks = [int(order[i % workers]) + 1 for i in range(max(workers, TICKS))]
    trials = {
        Trial(bench="scaling", system=system, case="clock", workers=workers): alone(run)
        for system, run in (("leash", ticks(workers, ranks)), ("numpy_min", minima(workers, ranks)))
    }
    times = in_turn(rounds, round_s, trials, warmup_s=0.02)
    # A repeat has many ticks; the figures are those of one.
    return [_clock_row(trial, of_trial) for trial, of_trial in times.items()]


def _clock_row(trial: Trial, times: Times) -> Row:
    """Makes the figures of one tick from a row whose repeats have TICKS of them."""
    return make_row(trial, replace(times, by_worker=([t / TICKS for t in times.by_worker[0]],)))


def ticks(workers: int, ranks: list[int]) -> Callable[[], None]:
    clock = StepClock(None)
    for worker in range(1, workers + 1):
        clock.join(worker, 0)
    turn = _turns(ranks)

    def run() -> None:
        for worker in next(turn):
            clock.tick(worker)
            clock.admits(worker)

    return run


def minima(workers: int, ranks: list[int]) -> Callable[[], None]:
    clocks = np.zeros(workers + 1, np.int64)
    turn = _turns(ranks)

    def run() -> None:
        for worker in next(turn):
            clocks[worker] += 1
            clocks[1:].min()

    return run


def _turns(ranks: list[int]) -> Iterator[list[int]]:
    """The workers of the next TICKS ticks: each in turn, in a random order."""
    at = 0
    while True:
        doubled = ranks[at:] + ranks[:at] if at + TICKS > len(ranks) else ranks[at : at + TICKS]
        yield doubled[:TICKS]
        at = (at + TICKS) % len(ranks)


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("scaling", argv)


if __name__ == "__main__":
    raise SystemExit(main())
