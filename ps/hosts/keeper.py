"""Keeps one worker on a host: starts it, takes what it prints, and ends it when its run is over.

It is a process of its own session, so that it stays when ssh is lost. It ends with its worker, and
the worker with it.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from leash.ps.errors import LeashError
from leash.ps.hosts.frames import KEY, LOG_NAME, PRESENT_S, READ_NBYTES, STATUS, WorkerStart
from leash.ps.processes import Process, spawn, spawn_script
from leash.ps.wire import hosts
from leash.ps.words import KEY_VARIABLE

SERVER_LOOK_S: Final = 2.0  # between two looks at the server, where no launcher follows
ABSENT_S: Final = 3 * PRESENT_S  # a launcher that was silent for so long is not there
# Where no launcher follows and nobody listens at the server's port, the run is over after so long.
# It may be a server that was started again, which takes seconds.
CLOSED_S: Final = 30.0
KILL_AFTER_S: Final = 5.0  # beyond its grace, until a worker that was told to end is killed


class RunWatch:
    """Decides whether a run is over whose launcher nobody hears any more."""

    def __init__(self, patience_s: float, now: float) -> None:
        """Takes launcher and server for there.

        Args:
            patience_s: how long the worker goes on without a server.
            now: seconds on a clock that never goes back.
        """
        self._patience_s: Final = patience_s
        self._heard_s = now  # from a launcher
        self._reached_s = now  # the newest time at which the server took a connection
        self._refused_s: float | None = None  # since when nobody listens there

    def hear(self, now: float) -> None:
        """A launcher has said something."""
        self._heard_s = self._reached_s = now
        self._refused_s = None

    def must_look(self, now: float) -> bool:
        """Whether the launcher is silent, so that the server is to be looked for."""
        return now - self._heard_s >= ABSENT_S

    def see(self, now: float, *, is_open: bool, refuses: bool) -> None:
        """The server's port was looked at: it takes connections, or its host says that none does.

        Neither is so in an outage.
        """
        if is_open:
            self._reached_s = now
        if not refuses:
            self._refused_s = None
        elif self._refused_s is None:
            self._refused_s = now

    def is_over(self, now: float) -> bool:
        """Whether the worker has nobody left to work for."""
        if not self.must_look(now):
            return False
        if self._refused_s is not None and now - self._refused_s >= CLOSED_S:
            return True
        return now - self._reached_s >= self._patience_s


class Keeper:
    """One worker, and those who follow it."""

    def __init__(
        self, folder: Path, start: WorkerStart, listening: socket.socket,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Starts the worker.

        Args:
            folder: of its files.
            start: what to start.
            listening: where followers connect.
            now: seconds on a clock that never goes back.

        Raises:
            OSError: it could not be started.
        """
        self._folder: Final = folder
        self._start: Final = start
        self._now: Final = now
        self._selector: Final = selectors.DefaultSelector()
        self._commands: Final[dict[socket.socket, bytes]] = {}  # follower ▸ a line's beginning
        self._newest_signal = 0  # its number; one that comes again is done already
        self._kill_at_s: float | None = None
        self._run_watch: Final = RunWatch(start.patience_s, now())
        self._log: Final = (folder / LOG_NAME).open("ab", buffering=0)
        self._worker, output = self._started()
        os.set_blocking(output.fileno(), False)
        self._output: IO[bytes] | None = output
        listening.setblocking(False)
        self._listening: Final = listening
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._selector.register(output, selectors.EVENT_READ, self._relay)
        # Of its end tells SIGCHLD: older kernels have no file descriptor for it.
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        self._selector.register(
            self._woken, selectors.EVENT_READ, lambda: self._woken.recv(READ_NBYTES)
        )

    def _started(self) -> tuple[Process, IO[bytes]]:
        start, variables = self._start, dict(self._start.variables)
        words = list(start.words)
        if start.key is not None:
            file = os.open(self._folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as key:
                key.write(start.key)
            variables[KEY_VARIABLE] = str(self._folder / KEY)
            words += [] if start.is_script else [f"--key={self._folder / KEY}"]
        os.chdir(os.path.expanduser(start.directory))
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as output:
            if start.is_script:
                words[0] = os.path.expanduser(words[0])
                worker = spawn_script(words, output, threads=start.threads, variables=variables)
            else:
                worker = spawn("worker", words, stdout=output, stderr=subprocess.STDOUT)
        return worker, os.fdopen(reader, "rb", buffering=0)

    def run(self) -> int:
        """Keeps the worker until it has ended; returns its status, and leaves it in its file."""
        while self._worker.poll() is None:
            for found, _ in self._selector.select(SERVER_LOOK_S):
                found.data()
            self._look_at_run()
        self._relay()
        with suppress(FileNotFoundError):
            (self._folder / KEY).unlink()
        written = self._folder / f"{STATUS}.new"
        written.write_text(str(self._worker.returncode))
        written.rename(self._folder / STATUS)  # there with all that is in it, or not there
        for follower in self._commands:
            follower.close()
        return self._worker.returncode

    def _relay(self) -> None:
        """Writes what the worker has printed to its log, and has the followers read it there."""
        while self._output is not None and (data := self._output.read(READ_NBYTES)) is not None:
            if not data:  # it prints no more
                self._selector.unregister(self._output)
                self._output.close()
                self._output = None
                return
            self._log.write(data)
            for follower in self._commands:
                with suppress(OSError):  # it has enough to read, or has gone
                    follower.send(b".")

    # Followers.

    def _accept(self) -> None:
        with suppress(OSError):
            follower, _ = self._listening.accept()
            follower.setblocking(False)
            self._commands[follower] = b""
            self._selector.register(follower, selectors.EVENT_READ, lambda: self._hear(follower))
            self._run_watch.hear(self._now())

    def _hear(self, follower: socket.socket) -> None:
        try:
            data = follower.recv(READ_NBYTES)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(follower)
            del self._commands[follower]
            follower.close()
            return
        self._run_watch.hear(self._now())
        *lines, self._commands[follower] = (self._commands[follower] + data).split(b"\n")
        for line in filter(None, lines):
            number, _, wanted = line.partition(b" ")
            self._send_signal(int(number), int(wanted))

    def _send_signal(self, number: int, wanted: int) -> None:
        if number <= self._newest_signal:
            return
        self._newest_signal = number
        self._worker.send_signal(wanted)

    # The run.

    def _look_at_run(self) -> None:
        now = self._now()
        if self._kill_at_s is not None:
            if now >= self._kill_at_s:
                self._worker.kill()
            return
        if not self._run_watch.must_look(now):
            return
        scheme_host, _, port = self._start.server.rpartition(":")
        place = scheme_host.removeprefix("tcp://"), int(port)
        self._run_watch.see(now, is_open=hosts.is_open(*place), refuses=hosts.refuses(*place))
        if self._run_watch.is_over(now):
            self._log.write(b"leash launch: the run is over, and nobody follows: told to end\n")
            self._kill_at_s = now + self._start.grace_s + KILL_AFTER_S
            self._worker.terminate()


def keep(folder: str, listening_fd: str) -> int:
    """Keeps the worker that standard input describes, in a line of JSON.

    Args:
        folder: of its files.
        listening_fd: where followers connect.
    """
    start = WorkerStart.from_json(sys.stdin.readline())
    place = Path(folder)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with socket.socket(fileno=int(listening_fd)) as listening:
        try:
            return Keeper(place, start, listening).run()
        except (LeashError, OSError) as error:
            with (place / LOG_NAME).open("ab") as log:
                log.write(f"leash worker: {error}\n".encode())
            (place / KEY).unlink(missing_ok=True)
            (place / STATUS).write_text("1")
            return 1


if __name__ == "__main__":
    sys.exit(keep(*sys.argv[1:]))
