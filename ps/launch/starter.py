"""Starts a worker's process, and knows nothing of the run."""

from collections.abc import Sequence
from pathlib import Path
from subprocess import STDOUT
from typing import Final

from leash.ps.launch.process_options import options_of_workers
from leash.ps.launch.script import start_copy
from leash.ps.options.base import to_argv
from leash.ps.options.commands import LaunchOptions
from leash.ps.processes import Process, spawn


class WorkerStarter:
    """Starts the processes of workers on this machine: `leash worker`, or copies of a script."""

    def __init__(self, options: LaunchOptions, keys: Sequence[str] = ()) -> None:
        """Starts none yet.

        Args:
            options: of the launch.
            keys: the files of the workers' keys, by rank; none without keys.
        """
        self._options: Final = options
        self._keys: Final = keys

    def start(self, rank: int, address: str, log: Path) -> Process:
        """Starts the worker of this rank. REQUIRES: signals are `held` until the caller has it.

        Args:
            rank: of the worker.
            address: of the server.
            log: where its output goes.
        """
        if self._options.script is not None:
            key = self._keys[rank - 1] if self._keys else None
            return start_copy(self._options, rank, address, log, key)
        own = options_of_workers(self._options, address, self._keys)[rank - 1]
        with log.open("wb") as output:
            return spawn("worker", to_argv(own), stdout=output, stderr=STDOUT)
