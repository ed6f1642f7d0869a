"""What others take of the processors: by made-up figures, a made-up /proc, and this machine."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from leash.bench.harness.foreign import (
    MOST_FOREIGN,
    ProcessorTime,
    foreign_share,
    read_processors,
    watched,
)

BEGIN = ProcessorTime(
    at_s=100.0, processors=2, idle_s=50.0, interrupts_s=1.0, stolen_s=3.0, own_s=10.0, error_s=0.02
)
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def after(seconds: float, **spent: float) -> ProcessorTime:
    """So many seconds after BEGIN, of which so much was spent in each way."""
    ways = {name: getattr(BEGIN, name) + value for name, value in spent.items()}
    return replace(BEGIN, at_s=BEGIN.at_s + seconds, **ways)


@pytest.mark.parametrize(
    ("end", "share"),
    [
        (after(1.0, idle_s=2.0), 0.0),
        (after(1.0, idle_s=0.5, own_s=1.5), 0.0),
        (after(1.0, idle_s=0.5, own_s=1.3), 0.1),
        (after(1.0, own_s=1.0, idle_s=0.6, interrupts_s=0.4), 0.0),  # of our sockets
        (after(1.0, own_s=1.0, idle_s=0.8, stolen_s=0.2), 0.1),
        (after(1.0, own_s=1.2, idle_s=0.8, stolen_s=0.2), 0.1),  # in the own time of who waited
        (after(1.0, idle_s=1.0, own_s=1.01), 0.0),  # never below 0
        (after(1.0), 1.0),
        (after(0.2, idle_s=0.4), 0.0),  # 0.02 s of error are 5 %
        (after(0.19, idle_s=0.0), None),
    ],
)
def test_foreign_is_what_is_neither_idle_nor_own_nor_of_interrupts(
    end: ProcessorTime, share: float | None
) -> None:
    assert foreign_share(BEGIN, end) == (None if share is None else pytest.approx(share))


def make_proc(folder: Path, cpu_lines: list[str]) -> Path:
    (folder / "stat").write_text("\n".join([*cpu_lines, "intr 5 0", "ctxt 7"]) + "\n")
    return folder


def add_process(proc: Path, process: int, name: str, parent: int, waited_ticks: int) -> None:
    told = ["S", parent, *[0] * 11, waited_ticks, 0, *[0] * 30]
    (proc / str(process)).mkdir()
    (proc / str(process) / "stat").write_text(f"{process} ({name}) {' '.join(map(str, told))}\n")


@pytest.mark.parametrize(("irq", "interrupts"), [(0, 0), (3, 43)])
def test_interrupts_are_told_where_the_kernel_measures_them(
    irq: int, interrupts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    line = f"10 0 20 500 70 {irq} 40 9 0 0"
    read = read_processors(make_proc(tmp_path, [f"cpu {line}", "cpu0 1", "cpu1 1"]))
    assert read is not None
    assert read.processors == 2
    assert read.idle_s == pytest.approx(570 * TICK_S)
    assert read.interrupts_s == pytest.approx(interrupts * TICK_S)
    assert read.stolen_s == pytest.approx(9 * TICK_S)


def test_only_the_processors_on_which_this_process_may_run_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2})
    lines = ["cpu 0 0 0 60 0 0 0 0", *(f"cpu{n} 0 0 0 {n}0 0 0 0 0" for n in range(4))]
    read = read_processors(make_proc(tmp_path, lines))
    assert read is not None
    assert (read.processors, read.idle_s) == (1, pytest.approx(20 * TICK_S))


def test_own_are_all_descendants_and_the_threads_for_softirqs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {os.getpid(): 1.0, 21: 2.0, 22: 4.0, 31: 8.0, 41: 16.0, 13: 32.0, 99: 64.0}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clocks[~(clock >> 3)])
    proc = make_proc(tmp_path, ["cpu 1 1 1 1 1 1 1 1", "cpu0 1 1 1 1 1 1 1 1"])
    me = os.getpid()
    add_process(proc, me, "leash", 7, 0)
    add_process(proc, 41, "of a grandchild", 31, 100)
    add_process(proc, 31, "of a child", 21, 0)
    add_process(proc, 21, "a) 9 (child", me, 0)
    add_process(proc, 22, "another", me, 300)
    add_process(proc, 13, "ksoftirqd/0", 2, 0)
    add_process(proc, 99, "somebody", 1, 0)
    read = read_processors(proc)
    assert read is not None
    assert read.own_s == pytest.approx(1 + 2 + 4 + 8 + 16 + 32 + 400 * TICK_S)


def test_nothing_is_told_where_there_is_no_proc(tmp_path: Path) -> None:
    assert read_processors(tmp_path) is None


# This machine.

pytestmark = pytest.mark.skipif(read_processors() is None, reason="Linux alone tells it")
BURN = "import time\nwhile time.process_time() < {}: pass"


def burn(seconds: float) -> None:
    """Has a process of ours compute for so long."""
    subprocess.run([sys.executable, "-c", BURN.format(seconds)], check=True)


def test_what_own_threads_and_ended_children_computed_is_own() -> None:
    before = read_processors()
    burn(0.3)
    thread = threading.Thread(target=lambda: sum(range(3_000_000)))
    began_s = time.process_time()
    thread.start()
    thread.join()
    own_s = 0.3 + time.process_time() - began_s
    end = read_processors()
    assert before is not None
    assert end is not None
    assert end.own_s - before.own_s >= own_s - 2 * TICK_S


def test_a_process_that_is_not_ours_is_foreign() -> None:
    # Its parent ends at once, so that it is no descendant of this process.
    start = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=1)"
    with subprocess.Popen(
        [sys.executable, "-c", start, "-c", BURN.format(1.0)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.wait()
        # The pipe closes when the one that computes has ended.
        _, share = watched(parent.stdout.read)
    assert share is not None
    assert share > MOST_FOREIGN


def test_a_round_of_hundredths_of_a_second_is_not_judged() -> None:
    assert watched(lambda: 7) == (7, None)
