"""Counts the instructions that processes execute in user space, by the processor's own counters.

Unlike times, instructions do not depend on neighbours. The kernel's work for sockets is not among
them. Linux counts for each thread (perf_event_open(2)). Many virtual machines have no such
counters; there leash.bench.harness.callgrind counts, in a simulated processor.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from leash.bench.harness.process_tree import PROC
from leash.bench.harness.trial import Round, TimesOfRound

# Of perf_event_open, in the kernel's tables.
SYSTEM_CALLS: Final = {"x86_64": 298, "aarch64": 241}

# struct perf_event_attr, version 0: type, size, config, sample_period, sample_type, read_format,
# flags, wakeup_events, bp_type, bp_addr.
ATTRIBUTES: Final = struct.Struct("=IIQQQQQIIQ")
WITH_ENABLED_AND_RUNNING: Final = 1 | 2  # of read_format: a counter tells these two times too
INHERIT: Final = 1 << 1  # threads that a thread starts are counted with it
USER_SPACE_ALONE: Final = 1 << 5 | 1 << 6  # neither the kernel nor a hypervisor

# What a counter tells: its count, and for how long it was enabled and did run, in ns.
COUNT: Final = struct.Struct("=QQQ")

OpenCounter: TypeAlias = Callable[[int], int]  # a thread's number ▸ a counter's file descriptor


@dataclass(frozen=True, slots=True)
class Event:
    """What is counted: `type` and `config` of struct perf_event_attr."""

    kind: int
    config: int


INSTRUCTIONS: Final = Event(kind=0, config=1)  # PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS


def open_counter(thread: int, event: Event = INSTRUCTIONS) -> int:
    """Begins to count for one thread, 0 for the caller; gives the counter's file descriptor.

    Raises:
        OSError: there is no such thread or counter, or this process may not use it.
    """
    call = SYSTEM_CALLS.get(platform.machine()) if platform.system() == "Linux" else None
    if call is None:
        raise OSError(f"unknown for {platform.system()} on {platform.machine()}")
    flags = INHERIT | USER_SPACE_ALONE
    told = (event.kind, ATTRIBUTES.size, event.config, 0, 0, WITH_ENABLED_AND_RUNNING, flags)
    attributes = ctypes.create_string_buffer(ATTRIBUTES.pack(*told, 0, 0, 0), ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    any_processor, no_group, close_on_exec = -1, -1, 8
    counter: int = libc.syscall(
        ctypes.c_long(call), attributes, ctypes.c_int(thread), ctypes.c_int(any_processor),
        ctypes.c_int(no_group), ctypes.c_ulong(close_on_exec),
    )  # fmt: skip
    if counter < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return counter


def why_not_counted(open_: OpenCounter = open_counter) -> str | None:
    """Why this machine does not count instructions; None if it does."""
    try:
        os.close(open_(0))
    except OSError as error:
        return f"the processor's counters cannot be read ({error.strerror or error})"
    return None


@contextmanager
def counting(
    processes: Collection[int], open_: OpenCounter = open_counter
) -> Iterator[Callable[[], float]]:
    """Counts for these processes, all threads; gives a function that says how many so far.

    Threads that end meanwhile count, and so do those that begin.
    """
    counters: list[int] = []
    try:
        for thread in (thread for process in processes for thread in _threads(process)):
            with suppress(ProcessLookupError):  # it has ended
                counters.append(open_(thread))
        yield lambda: sum(map(_read, counters))
    finally:
        for counter in counters:
            os.close(counter)


def _threads(process: int) -> list[int]:
    try:
        return [int(thread.name) for thread in (PROC / str(process) / "task").iterdir()]
    except FileNotFoundError:  # it has ended
        return []


def _read(counter: int) -> float:
    """Reads a counter. One that had to share the processor's is scaled up to all of its time."""
    count, enabled_ns, running_ns = COUNT.unpack(os.read(counter, COUNT.size))
    return count * enabled_ns / running_ns if running_ns else 0.0


def counted(
    go: Round, processes: Collection[int], for_one: list[float],
    open_: OpenCounter = open_counter,
) -> Round:  # fmt: skip
    """Makes a round that counts: `for_one` gets the instructions for one exchange of each round.

    Args:
        go: runs a round.
        processes: that take part in it.
        for_one: gets a number with each round.
        open_: opens a counter.
    """

    def round_(seconds: float) -> TimesOfRound:
        with counting(processes, open_) as count:
            times = go(seconds)
            for_one.append(count() / sum(map(len, times)))
        return times

    return round_
