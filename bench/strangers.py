"""How much do good workers lose by peers that mean a server no good?

Workers push and pull, while attackers (leash.bench.harness.attackers) do one thing: at a sink, a
process that reads and drops what comes, and in turn at the server's control socket or at its data
socket. At the sink an attacker takes as much of the machine, and nothing of the server. So `kept`
is what the workers do beside an attacked server, over what they do beside an attacked sink. The
longest exchange tells the longest stall.

    python -m leash.bench.strangers [--short] [--workers 2] [--json FILE] [--picture FILE]
"""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from leash.bench.command import bench_main
from leash.bench.harness.attackers import CONNECTIONS, KINDS
from leash.bench.harness.crew import crew
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Round, Times, Trial, in_turn
from leash.bench.harness.workload import LR
from leash.bench.options import BenchOptions
from leash.bench.systems import leash
from leash.ps.options.addresses import split_address
from leash.ps.options.base import parse_counts
from leash.ps.processes import FREE_PORT, module_argv
from leash.ps.wire.control import ControlChannel, request_state

TITLE = "push_pull beside attackers, processes on one machine"
PEERS = ("sink",)

NBYTES: Final = 4_000_000
SHORT_KINDS: Final = ("empty_frames", "unfinished", "connections", "requests")
ATTACKERS: Final = "leash.bench.harness.attackers"
PEAK_RESET: Final = "5"  # what /proc/PID/clear_refs takes to forget the peak of memory


def measure(options: BenchOptions, doing: Callable[[str, float], None]) -> list[Row]:
    """Measures all rows; leash.bench.push_pull explains the arguments."""
    rounds, round_s = options.rounds or (2 if options.short else 5), options.round_s or 2.0
    kinds = SHORT_KINDS if options.short else KINDS
    counts = parse_counts("--workers", options.workers or "2")
    rows: list[Row] = []
    for i, workers in enumerate(counts):
        for k, kind in enumerate(kinds):
            doing(f"{kind}, workers {workers}", (i + k / len(kinds)) / len(counts))
            rows += measure_kind(kind, workers, rounds, round_s)
    return rows


def measure_kind(kind: str, workers: int, rounds: int, round_s: float) -> list[Row]:
    """Measures one kind of attacker, at the sink and at both sockets of one server."""
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        address, server = stack.enter_context(
            leash.server("--policy=asp", f"--workers={workers}", f"--lr={LR}")
        )
        go = stack.enter_context(crew(_trial(kind, "sink", workers), leash.join, address))
        data = f"tcp://{split_address(address)[0]}:{_data_port(address)}"
        places = {"sink": stack.enter_context(_sink()), "control": address, "data": data}
        running = {
            _trial(kind, system, workers): _attacked(kind, place, go, server, system, peaks)
            for system, place in places.items()
        }
        times = in_turn(rounds, round_s, running)
    beside_sink = len(_all(times[_trial(kind, "sink", workers)]))
    return [
        make_row(
            trial, taken, longest_s=max(_all(taken)), kept=len(_all(taken)) / beside_sink,
            server_peak_nbytes=peaks[trial.system],
        )
        for trial, taken in times.items()
    ]  # fmt: skip


def _trial(kind: str, system: str, workers: int) -> Trial:
    return Trial(bench="strangers", system=system, case=kind, transport="tcp", nbytes=NBYTES,
                 workers=workers)  # fmt: skip


def _all(times: Times) -> list[float]:
    return [seconds for of_worker in times.by_worker for seconds in of_worker]


def _data_port(address: str) -> int:
    with ControlChannel(address) as channel:
        ports: list[int] = request_state(channel)["data_ports"]
    return ports[0]


def _attacked(
    kind: str, place: str, go: Round, server: int, system: str, peaks: dict[str, int]
) -> Round:
    """Makes the round of workers beside attackers at one place; notes the server's peak."""

    def round_(seconds: float) -> list[list[float]]:
        Path(f"/proc/{server}/clear_refs").write_text(PEAK_RESET)
        with _process(kind, place, str(CONNECTIONS)):
            times = go(seconds)
        peaks[system] = max(peaks.get(system, 0), _peak_nbytes(server))
        return times

    return round_


def _peak_nbytes(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _process(*words: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(module_argv(ATTACKERS, *words), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _sink() -> Iterator[str]:
    with _process("sink", FREE_PORT) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def main(argv: Sequence[str] | None = None) -> int:
    return bench_main("strangers", argv)


if __name__ == "__main__":
    raise SystemExit(main())
