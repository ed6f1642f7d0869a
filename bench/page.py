"""What does the live page cost a run, and how old is what it shows?

One process plays the workers (harness/simulated_workers.py): each pushes a chunk of 64 KiB a step,
as fast as the server answers. Two servers take turns, one of which has a page that somebody looks
at. Both record every step. `kept` is the speed with the page, over that without. A browser's
side is a thread that reads the page's events and notes how old each is when it comes.

    python -m leash.bench.page [--short] [--workers 8,200] [--json FILE]
"""

import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import psutil

from leash.bench.command import bench_main
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.simulated_workers import SimulatedWorkers
from leash.bench.harness.trial import Round, Trial, in_turn
from leash.bench.harness.workload import LR
from leash.bench.options import BenchOptions
from leash.bench.systems.leash import server
from leash.ps.options.base import parse_counts

TITLE = "the live page: a message is a push_pull of 64 KiB, with and without somebody who looks"
PEERS = ("no_page",)

PAGE_NBYTES: Final = 64 * 1024
PAGE_WORKERS: Final = "8,200"
WITHOUT, WITH = "no_page", "page"
PAGE_ANSWER_S: Final = 30.0


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments."""
    rounds, round_s = options.rounds or (2 if options.short else 60), options.round_s or 5.0
    counts = parse_counts("--workers", options.workers or PAGE_WORKERS)
    rows: list[Row] = []
    for place, workers in enumerate(counts):
        doing(f"workers {workers}", place / len(counts))
        rows += measure_page(workers, rounds, round_s)
    return rows


def measure_page(workers: int, rounds: int, round_s: float) -> list[Row]:
    """Measures a server with a page, and one without, in turn."""
    with ExitStack() as stack:
        running: dict[Trial, Round] = {}
        for system in (WITHOUT, WITH):
            trial = Trial(bench="page", system=system, transport="tcp", nbytes=PAGE_NBYTES,
                          workers=workers)  # fmt: skip
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "run")
            more = ("--page-at=127.0.0.1:0",) if system == WITH else ()
            address, pid = stack.enter_context(server(
                f"--workers={workers}", "--policy=asp", f"--lr={LR}", "--evict-s=3600",
                f"--chunk-kib={PAGE_NBYTES // 1024}", "--step-events=1", f"--run-dir={folder}",
                *more,
            ))  # fmt: skip
            if system == WITH:
                looker = _looker_of(pid)
                reader = stack.enter_context(Reader.of(folder))
            played = stack.enter_context(
                closing(SimulatedWorkers(address, workers, 1, PAGE_NBYTES))
            )
            running[trial] = _rounds_of(played)
        began_s, used_s = time.monotonic(), _cpu_s(looker)
        times = in_turn(rounds, round_s, running)
        share = (_cpu_s(looker) - used_s) / (time.monotonic() - began_s)
        ages_s = sorted(reader.ages_s)
    rows = [make_row(trial, taken) for trial, taken in times.items()]
    speeds = {row.system: row.per_s for row in rows}
    p95_s = ages_s[int(0.95 * len(ages_s))]
    return [
        row if row.system == WITHOUT else make_row(
            trial, times[trial], kept=speeds[WITH] / speeds[WITHOUT], page_cpu_share=share,
            page_age_p95_s=p95_s,
        )
        for row, trial in zip(rows, times, strict=True)
    ]  # fmt: skip


def _rounds_of(workers: SimulatedWorkers) -> Round:
    def round_(seconds: float) -> list[list[float]]:
        began_s = time.perf_counter()
        answered = workers.go(lambda: time.perf_counter() > began_s + seconds)
        return [[(time.perf_counter() - began_s) / answered]]  # for one message

    return round_


def _looker_of(server_pid: int) -> psutil.Process:
    """The process of the page, which the server has started."""
    children = psutil.Process(server_pid).children()
    return next(child for child in children if any("looker" in word for word in child.cmdline()))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Reader:
    """Reads the events of a page as a browser does.

    Attributes:
        ages_s: how many seconds after the server's snapshot each came.
    """

    def __init__(self, port: int) -> None:
        self.ages_s: list[float] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PAGE_ANSWER_S)
        self._connection.request("GET", "/events")
        self._answer = self._connection.getresponse()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @classmethod
    @contextmanager
    def of(cls, run_dir: Path) -> Iterator["Reader"]:
        """Reads the page of this run."""
        reader = cls(int(json.loads((run_dir / "page.json").read_text())["port"]))
        try:
            yield reader
        finally:
            reader.close()

    def _read(self) -> None:
        while not self._ends.is_set() and (line := self._answer.readline()):
            if line.startswith(b"data: ") and (at := json.loads(line[6:])["at"]) is not None:
                self.ages_s.append(time.time() - at)

    def close(self) -> None:
        """Ends it with the next event."""
        self._ends.set()
        self._thread.join(PAGE_ANSWER_S)
        self._connection.close()


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("page", argv)


if __name__ == "__main__":
    raise SystemExit(main())
