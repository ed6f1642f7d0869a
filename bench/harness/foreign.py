"""How much of the processors others took during a round; it counts only if that was little.

    foreign = processors × seconds − idle − interrupts − own

- *processors* are those on which this process may run, and *idle* is what /proc/stat tells of them,
  iowait included: nobody computes then.
- *own* is the CPU time of this process and of all its descendants, workers and servers among them,
  with all of their threads, and of those that have ended and were waited for.
- What the kernel does for a socket is its owner's: a system call is the thread's own time, and so
  is a softirq, which a send over the loopback causes and most often runs itself. Softirqs that were
  put off run in the kernel's threads `ksoftirqd`, which therefore count as ours. A kernel that
  measures interrupts takes their time off the threads that they interrupt: there they are told in
  /proc/stat, and are taken off here too.
- What a hypervisor gave to another machine (*steal*) is foreign. Some kernels count it as the time
  of the thread that had to wait, so that foreign is at least what was stolen.

Linux alone tells these. A share that is not much larger than a tick of /proc/stat is not told, so
that a round of a test, which takes hundredths of a second, is neither judged nor repeated.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from leash.bench.harness.process_tree import PROC, read_processes, with_descendants

Result = TypeVar("Result")

MOST_FOREIGN: Final = 0.05  # others have to take less of the processors than that
SOFTIRQ_THREADS: Final = "ksoftirqd/"
# Two figures, idle and iowait, are cut off to whole ticks in each line that is read.
CUT_OFF: Final = 2


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """How the processors have spent their time, up to a moment. All times in seconds."""

    at_s: float
    processors: int
    idle_s: float
    interrupts_s: float  # 0 where the threads' own time has them
    stolen_s: float
    own_s: float
    error_s: float  # what the difference of two may be wrong by


def foreign_share(before: ProcessorTime, after: ProcessorTime) -> float | None:
    """The share of the processors that others took meanwhile; None if that cannot be told."""
    all_s = (after.at_s - before.at_s) * after.processors
    if after.error_s > MOST_FOREIGN * all_s:
        return None
    idle_s, interrupts_s = after.idle_s - before.idle_s, after.interrupts_s - before.interrupts_s
    foreign_s = all_s - idle_s - interrupts_s - (after.own_s - before.own_s)
    return min(1.0, max(0.0, foreign_s, after.stolen_s - before.stolen_s) / all_s)


def watched(go: Callable[[], Result]) -> tuple[Result, float | None]:
    """Calls `go`; gives its result, and the share of the processors that others took meanwhile."""
    before = read_processors()
    result = go()
    after = read_processors()
    return result, None if before is None or after is None else foreign_share(before, after)


def read_processors(proc: Path = PROC) -> ProcessorTime | None:
    """Reads how the processors have spent their time so far; None where nothing tells it."""
    if not (proc / "stat").exists() or not hasattr(os, "sched_getaffinity"):
        return None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    lines = [line.split() for line in (proc / "stat").read_text().splitlines()]
    at_s = time.perf_counter()
    every = {words[0]: words[1:] for words in lines if words[0].startswith("cpu")}
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    # The sum of all is more exact than the sum of lines that were cut off one by one.
    read = [every["cpu"]] if mine == every.keys() - {"cpu"} else [every[name] for name in mine]
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = [sum(int(words[i]) for words in read) for i in range(8)]
    # Timers interrupt all the time: where no such time is told, the kernel does not measure it.
    measures_interrupts = ticks[5] > 0
    return ProcessorTime(
        at_s=at_s,
        processors=len(mine),
        idle_s=(ticks[3] + ticks[4]) * tick_s,
        interrupts_s=(ticks[5] + ticks[6]) * tick_s if measures_interrupts else 0.0,
        stolen_s=ticks[7] * tick_s,
        own_s=_own_s(tick_s, proc),
        error_s=CUT_OFF * len(read) * tick_s,
    )


def _own_s(tick_s: float, proc: Path) -> float:
    """The CPU time of this process and its descendants, and of the threads for softirqs."""
    processes = read_processes(proc)
    own = with_descendants(os.getpid(), processes)
    own += [p for p, stat in processes.items() if stat.name.startswith(SOFTIRQ_THREADS)]
    waited_ticks = sum(processes[process].waited_ticks for process in own if process in processes)
    return sum(map(_process_s, own)) + waited_ticks * tick_s


def _process_s(process: int) -> float:
    """The CPU time of a process, all threads, ended ones too: exact, where others count ticks."""
    # The number of its clock, as glibc's clock_getcpuclockid computes it.
    with suppress(OSError):  # it has ended
        return time.clock_gettime(~process << 3 | 2)
    return 0.0
