"""The workers of a launch: their processes by rank, what these print, and how they have ended."""

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final

from leash.ps.interrupt import held
from leash.ps.launch.script import LogTail
from leash.ps.launch.starter import Starter, WorkerProcess
from leash.ps.options.launch import LaunchOptions
from leash.ps.processes import Failure, failure_of, from_outside, stop_all

LINES_S: Final = 0.5  # between two looks at what those have printed that are seen out
WORKER_END_S: Final = 3.0  # a worker may take so long to end after its bye


class LaunchedWorkers:
    """Starts workers, has some leave or come when it is time, and ends them all.

    What they mean for the run it leaves to leash.ps.launch.watch.
    """

    def __init__(
        self, options: LaunchOptions, logs: Path, starter: Starter, say: Callable[[str], None]
    ) -> None:
        """Starts none yet.

        Args:
            options: of the launch.
            logs: the folder of what they print.
            starter: starts their processes.
            say: shows a line.
        """
        self._options: Final = options
        self._logs: Final = logs
        self._starter: Final = starter
        self._say: Final = say
        self._address = ""  # of the server
        self._processes: Final[dict[int, WorkerProcess]] = {}  # by rank
        self._tails: Final[dict[int, LogTail]] = {}  # by rank, of the copies of a script
        self._ended: Final[set[int]] = set()  # the ranks of those whose end was noticed
        self._changes: Final = deque(options.changes)  # of their number, still to come
        self._told: Final[set[int]] = set()  # the ranks of those that were told to leave
        self._times_told = 0

    # Start.

    def start(self, address: str) -> None:
        """Starts those that the run begins with.

        Args:
            address: of the server.
        """
        self._address = address
        for rank in self._starter.ranks:
            self._start(rank)

    def _start(self, rank: int) -> None:
        log = self._log(rank)
        if rank in self._processes:  # it has left, and comes back
            log.rename(log.with_name(f"{log.stem}-before-{self._times_told}.log"))
        self._ended.discard(rank)
        self._told.discard(rank)
        with held():
            self._processes[rank] = self._starter.start(rank, self._address, log)
        if self._options.script is not None:
            self._tails[rank] = LogTail(log)

    def resize(self, train_seconds: float) -> None:
        """Starts workers, or tells the newest to leave, if it is time for that.

        Args:
            train_seconds: for how long the run has trained.
        """
        while self._changes and train_seconds >= self._changes[0].at_s:
            wanted = self._changes.popleft().workers
            here = [
                rank for rank, worker in self._processes.items()
                if worker.poll() is None and rank not in self._told
            ]  # fmt: skip
            for rank in sorted(here)[wanted:]:
                self._told.add(rank)
                self._times_told += 1
                self._processes[rank].terminate()
            absent = [
                rank for rank in range(1, self._options.most_started + 1)
                if rank not in here
                and (rank not in self._processes or self._processes[rank].poll() is not None)
            ]  # fmt: skip
            for rank in absent[: max(0, wanted - len(here))]:
                self._start(rank)

    # How they are.

    def __contains__(self, rank: int) -> bool:
        """Whether a worker of this rank was started here."""
        return rank in self._processes

    @property
    def are_started(self) -> bool:
        """Whether any were."""
        return bool(self._processes)

    @property
    def any_running(self) -> bool:
        """Whether one of them has not ended."""
        return any(worker.poll() is None for worker in self._processes.values())

    @property
    def have_all_failed(self) -> bool:
        """Whether all have ended, and none of them as it should."""
        return all(worker.poll() not in (None, 0) for worker in self._processes.values())

    def without_failure(self) -> list[int]:
        """The ranks of those that have ended with status 0."""
        return [rank for rank, worker in self._processes.items() if worker.poll() == 0]

    def newly_ended(self) -> dict[int, int]:
        """Rank ▸ exit status of those that have ended since the last call."""
        statuses = {
            rank: status
            for rank, worker in self._processes.items()
            if rank not in self._ended and (status := worker.poll()) is not None
        }
        self._ended.update(statuses)
        return statuses

    def is_unreachable(self, rank: int) -> bool:
        """Whether the host of this one has not answered for a while."""
        return rank in self._processes and self._starter.is_unreachable(rank)

    def was_told_to_leave(self, rank: int) -> bool:
        """Whether this one says bye by itself, as there are to be fewer."""
        return rank in self._told

    def name_of(self, rank: int) -> str:
        """Who this worker is, for people, with the host that it is on if that is another."""
        return self._starter.name_of(rank)

    def failure(self, rank: int, status: int, *, has_begun: bool) -> Failure:
        """The failure of one that has ended.

        Args:
            rank: of the worker.
            status: its exit status, which is not 0.
            has_begun: whether the run has.
        """
        return failure_of(self.name_of(rank), status, self._log(rank), has_begun=has_begun)

    def failures(self, *, has_begun: bool, even_if_killed: bool) -> list[Failure]:
        """The failures of all that have ended as they should not. REQUIRES: all have ended.

        Args:
            has_begun: whether the run has.
            even_if_killed: also of those that somebody has killed, without whom a run goes on.
        """
        return [
            self.failure(rank, status, has_begun=has_begun)
            for rank, worker in self._processes.items()
            if (status := worker.wait()) != 0 and (even_if_killed or not from_outside(status))
        ]

    # What they print, and their end.

    def relay(self) -> None:
        """Shows what the copies of a script have printed since the last time, and other news."""
        for line in self._starter.news():
            self._say(line)
        for rank, tail in self._tails.items():
            ended = self._processes[rank].poll() is not None
            for line in tail.new_lines(ended=ended):
                self._say(f"[{rank}] {line}")

    def see_out(self) -> None:
        """Waits, after the server's end, while they write their last lines.

        A script may have more to do after its training, and has all the time that it takes.
        """
        self._starter.expect_ends()
        deadline_s = time.monotonic() + (math.inf if self._tails else WORKER_END_S)
        for worker in self._processes.values():
            while worker.poll() is None and time.monotonic() < deadline_s:
                with suppress(TimeoutExpired):
                    worker.wait(min(LINES_S, max(0.0, deadline_s - time.monotonic())))
                self.relay()

    def wait_a_moment(self) -> None:
        """Waits for the end of one of them, for a moment at most."""
        for worker in self._processes.values():
            if worker.poll() is None:
                with suppress(TimeoutExpired):
                    worker.wait(LINES_S)
                return

    def await_ends(self, seconds: float) -> None:
        """Waits for the end of all, for so long at most."""
        deadline_s = time.monotonic() + seconds
        while self.any_running and time.monotonic() < deadline_s:
            self.wait_a_moment()

    def status_of(self, rank: int) -> int:
        """The exit status of one that has ended."""
        return self._processes[rank].wait()

    def stop(self, grace_s: float) -> None:
        """Ends all that have not ended: by SIGTERM, and by SIGKILL after so many seconds."""
        self._starter.expect_ends()
        stop_all(list(self._processes.values()), grace_s)

    def _log(self, rank: int) -> Path:
        return self._logs / f"worker-{rank}.log"
