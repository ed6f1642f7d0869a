"""The server's side of its live page: gives a process snapshots, and never waits for it."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from leash.ps.errors import LeashError, UsageError
from leash.ps.options.page import PageGroup, page_place
from leash.ps.processes import Process, spawn_module
from leash.ps.runs.background.cadence import Cadence
from leash.ps.words import for_json

LOOKER: Final = "leash.ps.live.looker"
SNAPSHOT_S: Final = 0.5  # from one to the next
SNAPSHOT_SHARE: Final = 0.004  # of the server's time; with hundreds of workers there are fewer
PAGE_START_S: Final = 30.0  # for the process to begin to listen
PAGE_END_S: Final = 3.0  # for it to end
KNOWN_AS: Final = "page.json"  # in the run directory: where the page was, for the next server
SEND_NBYTES: Final = 1 << 20


class LivePage:
    """The process that shows a run, and what it is told.

    Attributes:
        address: for a browser.
    """

    def __init__(
        self, options: PageGroup, run_dir: Path, say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Starts the process, and waits until it listens.

        Args:
            options: where it listens. Without a place it is where it was for the server before.
            run_dir: of the run.
            say: shows a line.
            now: seconds on a clock that never goes back.
            wall: seconds since 1970.

        Raises:
            UsageError: it cannot listen there.
            LeashError: it has ended instead.
        """
        self._plain_say: Final = say
        self._now: Final = now
        self._wall: Final = wall
        self._began_s: Final = now()
        self._run_dir: Final = run_dir
        self._snapshots: Final = Cadence(SNAPSHOT_S, SNAPSHOT_SHARE, now)
        self._said: list[tuple[float, str]] = []
        self._pending = memoryview(b"")  # of a snapshot that the socket has not taken yet
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process: Process = spawn_module(LOOKER, theirs.fileno(), gives_way=True)
        known = run_dir / KNOWN_AS
        host, port = page_place(options.page_at)
        is_anywhere = options.page_at is None or not port
        before = _known(known)
        answer = self._order({
            "run_dir": str(run_dir), "host": host, "token": before.get("token") or None,
            "port": before.get("port", port) if is_anywhere else port,
            "may_move": is_anywhere,
        })  # fmt: skip
        self.address: Final = str(answer["address"])
        with suppress(OSError):  # a server that comes after this one may have another port then
            _keep(known, {"port": answer["port"], "token": answer["token"]})
        self._link.setblocking(False)
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_NBYTES)

    def _order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        self._link.settimeout(PAGE_START_S)
        answer: dict[str, Any] = {}
        try:
            self._link.sendall(json.dumps(order).encode() + b"\n")
            with self._link.makefile("rb") as lines:
                answer = json.loads(lines.readline() or b"{}")
        except OSError as error:
            self.close()
            raise LeashError(f"the live page did not begin: {error}") from error
        if "address" in answer:
            return answer
        self.close()
        if "error" in answer:
            raise UsageError(answer["error"])
        raise LeashError(f"the live page did not begin: status {self._process.returncode}")

    @property
    def process(self) -> int:
        """The number of the process that shows the run."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Shows a line, on the page too."""
        self._plain_say(line)
        self._said.append((round(self._now() - self._began_s, 1), line))

    def attend(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Sends a snapshot if one is due, and the process has taken the last one.

        Args:
            state: makes it: what `leash status` hears.
        """
        if self._pending:
            self._send()
        elif self._snapshots.is_due and self._link.fileno() >= 0:
            with self._snapshots.doing():
                message = {"state": state(), "said": self._said, "at": self._wall()}
                self._said = []
                self._pending = memoryview(_line(message))
                self._send()

    def close(self) -> None:
        """Ends the process, once it has shown the last news."""
        self._link.close()
        self._pending = memoryview(b"")
        try:
            self._process.wait(PAGE_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self._link.send(self._pending) :]
        except BlockingIOError:
            return  # it has no time just now
        except OSError:
            self._pending = memoryview(b"")
            self._link.close()
            self._plain_say(f"the live page has ended ({self._how_it_ended()}); the run goes on "
                            f"without it: leash page {self._run_dir}")  # fmt: skip

    def _how_it_ended(self) -> str:
        status = self._process.poll()
        if status is None:
            return "it closed its end"
        return f"status {status}" if status >= 0 else signal.Signals(-status).name


def _line(message: dict[str, Any]) -> bytes:
    """Writes a snapshot as JSON, with null for what JSON has no number for."""
    try:
        text = json.dumps(message, allow_nan=False)
    except ValueError:
        text = json.dumps(for_json(message))
    return text.encode() + b"\n"


def _known(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(path: Path, known: Mapping[str, Any]) -> None:
    """Writes where the page is. It may hold a token, so nobody else may read it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(json.dumps(known) + "\n")
