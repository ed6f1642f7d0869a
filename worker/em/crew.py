"""A server and the workers of `leash em --workers N`, as processes of this machine.

The workers write to this process's standard output: the one that reports prints the results there.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final

from leash._log import logged
from leash.ps.errors import LeashError, ServerUnreachableError, UsageError
from leash.ps.interrupt import held
from leash.ps.options.base import common_options, to_argv
from leash.ps.options.em import PIXELS, EmOptions
from leash.ps.options.server import ServerOptions
from leash.ps.processes import FREE_PORT, Process, ServerProcess, last_words, spawn, stop_all
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import admin_key, files_for_workers
from leash.worker.em.classifier import mixture_for
from leash.worker.em.distributed import server_words
from leash.worker.em.images import DIGITS

POLL_S: Final = 0.2  # seconds between two looks at the workers
END_S: Final = 5.0  # seconds that workers have to end once the run is over
STOP_GRACE_S: Final = 3.5  # seconds that a process has to end by itself


class Crew:
    """The server and the workers of one run, as processes of this machine."""

    def __init__(
        self, options: EmOptions, out: Path,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ) -> None:  # fmt: skip
        """Notes what to start; `run` starts it.

        Args:
            options: what the command was started with.
            out: the run directory; it exists.
            say: shows a line of progress.
        """
        self._options: Final = options
        self._out: Final = out
        self._say: Final = logged(say, __name__)
        self._logs: Final = out / "logs"
        self._keys: list[str] = []  # the files of the workers', by rank; none without keys
        self._workers: dict[int, Process] = {}  # by rank
        self._server: Process | None = None
        self._over_s: float | None = None  # since when the server has ended, and a worker is done

    def run(self) -> int:
        """Starts all processes, watches them, and ends those that are left.

        Returns:
            0, which means that a worker came to the end.

        Raises:
            UsageError: a worker was started wrongly; the text is its last line.
            LeashError: no worker came to the end; the text is the last line of one.
        """
        self._logs.mkdir(exist_ok=True)
        if self._options.keys is not None:
            self._keys = files_for_workers(self._options.keys, self._ranks)
        try:
            address = self._start_server()
            for rank in range(1, self._ranks + 1):
                self._start_worker(rank, address)
            self._watch(address)
        finally:
            with held():
                server = [self._server] if self._server else []
                stop_all([*self._workers.values(), *server], STOP_GRACE_S)
        return 0

    @property
    def _ranks(self) -> int:
        assert self._options.workers is not None
        return self._options.workers

    def _start_server(self) -> str:
        """Starts the server, and returns its address as soon as it listens."""
        options = self._options
        dimensions = PIXELS if options.model == "bmm" else options.pca
        size = DIGITS * mixture_for(options, max(options.ks)).family(dimensions).size
        words = server_words(self._ranks, size, online=options.online, bound=options.bound)
        run_dir = RunDir(self._out / "server")
        server = ServerOptions(
            bind=FREE_PORT, run_dir=str(run_dir.path), seed=options.seed, keys=options.keys,
            **words,
        )  # fmt: skip
        run_dir.write_config(server)
        with held():
            started = ServerProcess(to_argv(server), self._log("server"))
            self._server = started.process
        return started.await_address()

    def _start_worker(self, rank: int, address: str) -> None:
        options = common_options(
            self._options, EmOptions, server=address, rank=rank, workers=None,
            run_dir=str(self._out), keys=None, key=self._keys[rank - 1] if self._keys else None,
        )  # fmt: skip
        name = f"worker-{rank}"
        with held(), self._log(name).open("wb") as log:
            self._workers[rank] = spawn("em", to_argv(options), stderr=log)

    def _watch(self, address: str) -> None:
        """Waits until all workers have ended. Losing one of several costs nothing but time."""
        left, keys = dict(self._workers), self._options.keys
        with ControlChannel(address, key=None if keys is None else admin_key(keys)) as channel:
            while left:
                for rank, worker in list(left.items()):
                    if (status := worker.poll()) is None:
                        continue
                    del left[rank]
                    if status != 0:
                        self._judge(rank, status, channel, any_left=bool(left))
                if self._has_been_over():
                    return
                self._wait_a_moment(left)

    def _has_been_over(self) -> bool:
        """Whether the run came to its end a while ago.

        A worker that was evicted shortly before would try for long to join again.
        """
        assert self._server is not None
        if self._server.poll() is None or not self._is_any_done():
            return False
        self._over_s = self._over_s or time.monotonic()
        return time.monotonic() - self._over_s > END_S

    def _is_any_done(self) -> bool:
        return any(worker.poll() == 0 for worker in self._workers.values())

    def _wait_a_moment(self, left: dict[int, Process]) -> None:
        for worker in list(left.values())[:1]:
            with suppress(TimeoutExpired):
                worker.wait(POLL_S)

    def _judge(self, rank: int, status: int, channel: ControlChannel, *, any_left: bool) -> None:
        """Judges a worker that has failed.

        If others go on or are done, they take over its share. If it was the last, or the training
        had not begun, the run has failed.

        Raises:
            UsageError: the run has failed, because the worker was started wrongly.
            LeashError: the run has failed; the text is the worker's last line.
        """
        others_done = self._is_any_done()
        how = "was killed" if status < 0 else self._last_words(f"worker-{rank}")
        if others_done or (status < 0 and any_left and _has_started(channel)):
            self._say(f"worker {rank} {how}; the others take over its share")
            return
        text = f"worker {rank} {how}" if status < 0 else how
        raise (UsageError if status == 2 else LeashError)(f"{text} (see {self._logs})")

    def _last_words(self, name: str) -> str:
        return last_words(self._log(name).read_text(errors="replace"))

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def _has_started(channel: ControlChannel) -> bool:
    try:
        return bool(request_state(channel)["started"])
    except ServerUnreachableError:
        return False
