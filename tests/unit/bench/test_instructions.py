"""Counting instructions: with counters that a test makes up, and with what this machine has."""

import errno
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from leash.bench import push_pull
from leash.bench.harness import callgrind
from leash.bench.harness.callgrind import (
    count_under_callgrind,
    require_callgrind,
    under_callgrind,
)
from leash.bench.harness.crew import crew
from leash.bench.harness.instructions import (
    ATTRIBUTES,
    Event,
    counted,
    counting,
    open_counter,
    why_not_counted,
)
from leash.bench.harness.process_tree import own_processes
from leash.bench.harness.trial import Round, TimesOfRound, Trial, in_turn
from leash.bench.options import BenchOptions
from leash.bench.systems import limits
from leash.ps.errors import LeashError

TASK_CLOCK = Event(kind=1, config=1)  # PERF_TYPE_SOFTWARE, which virtual machines have too


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Counters:
    """Opens counters that tell what a test says, for any thread."""

    def __init__(self, *told: tuple[int, int, int]) -> None:
        self.told = list(told)
        self.threads: list[int] = []
        self.opened: list[int] = []

    def open(self, thread: int) -> int:
        """Gives the reading end of a pipe with the next figures; None of them means no thread."""
        if not self.told:
            raise refused(errno.ESRCH)
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as end:
            end.write(struct.pack("=QQQ", *self.told.pop(0)))
        self.threads.append(thread)
        self.opened.append(reading)
        return reading

    def are_closed(self) -> bool:
        return not any(os.path.exists(f"/proc/self/fd/{counter}") for counter in self.opened)


linux = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads /proc")


@linux
@pytest.mark.parametrize(
    ("told", "count"),
    [
        ((700, 10, 10), 700.0),
        ((700, 10, 5), 1400.0),  # it had the processor's counter for half of the time
        ((0, 0, 0), 0.0),  # the thread has not run
    ],
)
def test_a_counter_that_was_shared_is_scaled(told: tuple[int, int, int], count: float) -> None:
    counters = Counters(told)
    with counting([os.getpid()], counters.open) as so_far:
        assert so_far() == count
    assert counters.are_closed()


@linux
def test_every_thread_is_counted_and_one_that_ends_meanwhile_is_left_out() -> None:
    goes_on = threading.Event()
    other = threading.Thread(target=goes_on.wait, daemon=True)
    other.start()
    few, many = Counters((5, 1, 1)), Counters(*[(5, 1, 1)] * 64)
    no_process = 2**22 + 1
    try:
        with counting([os.getpid(), no_process], few.open) as so_far:
            assert so_far() == 5.0  # of the first thread; all others have ended
        with counting([os.getpid()], many.open) as so_far:
            assert {os.getpid(), other.native_id} <= set(many.threads)
            assert so_far() == 5.0 * len(many.threads)
    finally:
        goes_on.set()
        other.join()


@linux
def test_a_round_tells_the_instructions_of_one_exchange_of_one_worker() -> None:
    counters = Counters((1200, 1, 1), (600, 1, 1))
    for_one: list[float] = []

    def go(seconds: float) -> TimesOfRound:
        return [[seconds] * 2, [seconds]]

    round_ = counted(go, {os.getpid()}, for_one, counters.open)
    counters.told, second = counters.told[:1], counters.told[1:]
    assert round_(0.5) == [[0.5, 0.5], [0.5]]
    counters.told = second
    round_(0.1)
    assert for_one == [400.0, 200.0]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSYS])
def test_a_machine_without_counters_says_why(number: int) -> None:
    def open_(_: int) -> int:
        raise refused(number)

    assert why_not_counted(open_) == (
        f"the processor's counters cannot be read ({os.strerror(number)})"
    )


def test_a_machine_with_counters_leaves_none_open() -> None:
    counters = Counters((0, 0, 0))
    assert why_not_counted(counters.open) is None
    assert counters.are_closed()


# perf_event_open(2) itself.


def test_the_attributes_have_the_size_of_their_first_version() -> None:
    assert ATTRIBUTES.size == 64


def test_an_event_that_no_kernel_has_is_refused_with_its_reason() -> None:
    with pytest.raises(OSError) as refusal:
        open_counter(0, Event(kind=1, config=1 << 40))
    assert str(refusal.value)


def task_clock(thread: int) -> int:
    return open_counter(thread, TASK_CLOCK)


@pytest.mark.skipif(
    why_not_counted(task_clock) is not None, reason="this machine lets nobody count events"
)
def test_the_kernel_counts_the_threads_of_another_process_also_those_that_begin() -> None:
    program = (
        "import sys, threading, time\n"
        "def burn():\n"
        "    while time.thread_time() < 0.1: pass\n"
        "print('here', flush=True)\n"
        "sys.stdin.readline()\n"
        "thread = threading.Thread(target=burn)\n"
        "thread.start()\n"
        "thread.join()\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with counting([process.pid], task_clock) as so_far:
            before_ns = so_far()
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            count_ns = so_far() - before_ns
        process.communicate(b"\n")
    assert 0.09e9 < count_ns < 30e9


# Callgrind.

FAKE_VALGRIND = """#!/bin/sh
echo "$@" >> {folder}/told
while [ "${{1#--}}" != "$1" ]; do shift; done
exec "$@"
"""


def test_processes_that_are_started_meanwhile_run_under_callgrind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "valgrind"
    fake.write_text(FAKE_VALGRIND.format(folder=tmp_path))
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    before = sys.executable
    trial = Trial(bench="push_pull", system="memcpy", nbytes=4000)
    with under_callgrind(tmp_path):
        subprocess.run([sys.executable, "-c", ""], check=True)
        with crew(trial, limits.memcpy, "") as go:
            assert go(0.0)[0][0] > 0
    told = (tmp_path / "told").read_text("utf-8")
    assert f"--callgrind-out-file={tmp_path}/out.%p {before} -c" in told
    assert "--multiprocessing-fork" in told
    assert sys.executable == before
    (tmp_path / "told").unlink()
    with crew(trial, limits.memcpy, "") as go:
        go(0.0)
    assert not (tmp_path / "told").exists()


def test_a_total_is_read_and_a_file_without_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out.7.1"
    path.write_text("events: Ir\nfn=(1)\n0 5\nsummary: 8\ntotals: 8808448\n")
    assert callgrind._total(path) == 8808448
    path.write_text("events: Ir\n")
    with pytest.raises(LeashError, match=re.escape(f"no 'totals:' to {path}")):
        callgrind._total(path)


def test_a_machine_without_valgrind_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(LeashError, match=r"--instructions needs valgrind, .*: apt install valg"):
        require_callgrind()


needs_valgrind = pytest.mark.skipif(
    not all(map(shutil.which, ("valgrind", "vgdb"))), reason="needs valgrind"
)


@needs_valgrind
def test_callgrind_counts_twice_as_many_instructions_for_twice_the_work(tmp_path: Path) -> None:
    counts = []
    for nbytes in (4_000_000, 8_000_000):
        trial = Trial(bench="push_pull", system="fused_sgd", nbytes=nbytes)
        folder = tmp_path / str(nbytes)
        folder.mkdir()
        with ExitStack() as stack:
            others = own_processes()
            with under_callgrind(folder):
                go = stack.enter_context(crew(trial, limits.fused_sgd, ""))
            counts.append(count_under_callgrind(go, own_processes() - others, folder))
    # One million values, of which a vector has 8: some instructions for each.
    assert 1_000_000 / 8 < counts[0] < 4_000_000
    assert counts[1] / counts[0] == pytest.approx(2.0, rel=0.1)


# The benchmark.

OPTIONS = BenchOptions(benchmark="push_pull", sizes="4e3", workers="1", rounds=2, round_s=0.01,
                       systems="zmq_echo")  # fmt: skip


def test_without_counters_one_line_says_how_to_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_pull, "why_not_counted", lambda: "there is none")
    rows = push_pull.measure(OPTIONS, lambda *_: None)
    assert {(row.instructions, row.instructions_by) for row in rows} == {(None, None)}
    told = [line for line in capsys.readouterr().out.splitlines() if "instructions" in line]
    assert told == ["push_pull: without instructions: there is none; --instructions counts them by "
                    "callgrind"]  # fmt: skip


def test_with_counters_a_row_has_the_median_of_its_rounds_without_the_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counted_so(_: Round, processes: set[int], for_one: list[float]) -> Round:
        assert processes
        assert os.getpid() not in processes
        numbers = iter((900.0, 10.0, 20.0))

        def round_(_: float) -> TimesOfRound:
            for_one.append(next(numbers))
            return [[0.5]]

        return round_

    monkeypatch.setattr(push_pull, "why_not_counted", lambda: None)
    monkeypatch.setattr(push_pull, "counted", counted_so)
    monkeypatch.setattr(push_pull, "in_turn", partial(in_turn, tries=1))  # others may be loud
    rows = push_pull.measure(OPTIONS, lambda *_: None)
    assert [(row.system, row.instructions, row.instructions_by) for row in rows] == [
        (system, 15.0, "perf_event") for system in ("zmq_echo", *push_pull.LIMITS)
    ]
