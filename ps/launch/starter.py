"""Starts a worker's process, and knows nothing of the run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import STDOUT
from typing import Final, Protocol

from leash.ps.launch.process_options import options_of_workers
from leash.ps.launch.script import start_copy
from leash.ps.options.base import to_argv
from leash.ps.options.launch import LaunchOptions
from leash.ps.processes import Stoppable, spawn


class WorkerProcess(Stoppable, Protocol):
    """What a launch has of a worker's process: a part of `subprocess.Popen`."""

    returncode: int | None


class Starter(Protocol):
    """Starts the workers of a launch, wherever they are.

    Attributes:
        ranks: of those that it starts at the beginning.
    """

    ranks: Sequence[int]

    def start(self, rank: int, address: str, log: Path) -> WorkerProcess:
        """Starts the worker of this rank. REQUIRES: signals are `held` until the caller has it.

        Args:
            rank: of the worker.
            address: of the server, as this machine finds it.
            log: where its output goes.
        """

    def name_of(self, rank: int) -> str:
        """Who this worker is, for people: "worker 2", or where that is elsewhere "worker 2 on box".

        Args:
            rank: of the worker.
        """

    def news(self) -> Iterator[str]:
        """What there is to say of the workers' machines since the last call."""

    def is_unreachable(self, rank: int) -> bool:
        """Whether the host of this worker has not answered for a while.

        Args:
            rank: of a worker that was started here.
        """

    def expect_ends(self) -> None:
        """Hears that the run is over, so that its workers end."""

    def how_to_join(self, address: str) -> str:
        """The command line by which one more worker joins.

        Args:
            address: of the server, as this machine finds it.
        """


class LocalStarter:
    """Starts the processes of workers on this machine: `leash worker`, or copies of a script."""

    def __init__(
        self, options: LaunchOptions, keys: Sequence[str] = (), ranks: Sequence[int] | None = None
    ) -> None:
        """Starts none yet.

        Args:
            options: of the launch.
            keys: the files of the workers' keys, by rank; none without keys.
            ranks: of those that are on this machine; None for all.
        """
        self.ranks: Sequence[int] = range(1, options.workers + 1) if ranks is None else ranks
        self._options: Final = options
        self._keys: Final = keys

    def start(self, rank: int, address: str, log: Path) -> WorkerProcess:
        """As `Starter.start`."""
        if self._options.script is not None:
            key = self._keys[rank - 1] if self._keys else None
            return start_copy(self._options, rank, address, log, key)
        own = options_of_workers(self._options, address, self._keys)[rank - 1]
        with log.open("wb") as output:
            return spawn("worker", to_argv(own), stdout=output, stderr=STDOUT)

    def name_of(self, rank: int) -> str:
        """As `Starter.name_of`."""
        return f"worker {rank}"

    def news(self) -> Iterator[str]:
        """None: they are on this machine."""
        return iter(())

    def is_unreachable(self, rank: int) -> bool:
        """False: it is this one."""
        return False

    def expect_ends(self) -> None:
        """Does nothing: the end of a process here is seen."""

    def how_to_join(self, address: str) -> str:
        """As `Starter.how_to_join`."""
        return f"leash worker --server {address} --rank auto"
