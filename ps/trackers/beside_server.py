"""The server's side of its trackers: it starts their process, and hears what becomes of it."""

import errno
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from leash.ps.processes import Process, spawn_module
from leash.ps.trackers.process import CLOSING_S

RESTARTS: Final = 3  # so often the process is started again that has crashed
RESTART_S: Final = 5.0  # after its end
NEWS_NBYTES: Final = 1 << 12
MARGIN_S: Final = 2.0  # beyond what the process gives itself for the end
ALL_TRACKERS: Final = "trackers"  # of the process, where it says why something cannot be written

# The name of what cannot be written, and why: "" if it can again.
News: TypeAlias = tuple[str, str]


class TrackersProcess:
    """Starts the process that feeds the trackers of a run, starts it again, and ends it.

    Nothing here waits but `stop`.
    """

    def __init__(
        self, run: Path, names: Sequence[str], say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Starts nothing yet.

        Args:
            run: the run directory.
            names: of the trackers; none for no process.
            say: shows a line.
            now: seconds on a clock that never goes back.
            wall: seconds since 1970.
        """
        self._run: Final = run
        self._names: Final = names
        self._say: Final = say
        self._now: Final = now
        self._began_s: Final = wall()  # the events begin at the same time
        self._end: socket.socket | None = None
        self._process: Process | None = None
        self._restarts = 0
        self._at = 0  # so many bytes of the events are with the trackers
        self._again_s: float | None = None  # when the process is started again that has ended

    def start(self) -> list[News]:
        """Starts the process, if the run has trackers; tells if that cannot be."""
        if not self._names:
            return []
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        try:
            with far:
                self._process = spawn_module(
                    "leash.ps.trackers.process", far.fileno(), str(self._run),
                    ",".join(self._names), repr(self._began_s), str(self._at), gives_way=True,
                )  # fmt: skip
        except OSError as error:  # too many processes
            near.close()
            return self._note_end(f"their process cannot start: {error.strerror}")
        self._end = near
        return []

    def news(self) -> list[News]:
        """What has become of the trackers since the last call; starts a process that is due."""
        if self._again_s is not None:
            if self._now() < self._again_s:
                return []
            self._again_s = None
            return self.start() or [(ALL_TRACKERS, "")]
        if self._end is None:
            return []
        news, is_over = self._receive(self._end)
        return news + self._attend_end() if is_over else news

    def stop(self, *, has_time: bool) -> None:
        """Tells the process that the run is over, and waits for its end.

        Args:
            has_time: for as long as trackers may take for their last; otherwise it ends by itself
                within `CLOSING_S`.
        """
        if self._end is None or self._process is None:
            return
        with self._end:
            self._end.shutdown(socket.SHUT_WR)
            limit_s = CLOSING_S + MARGIN_S if has_time else 0.2
            until_s = self._now() + limit_s
            self._end.settimeout(limit_s)
            with suppress(OSError):
                while self._now() < until_s and (told := self._end.recv(NEWS_NBYTES)):
                    self._say_what_fails(self._news_of(told))
        self._end = None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.1, until_s - self._now()))

    def _receive(self, end: socket.socket) -> tuple[list[News], bool]:
        """What the process has told, and whether it has ended."""
        news = list[News]()
        try:
            while told := end.recv(NEWS_NBYTES):
                news += self._news_of(told)
        except BlockingIOError:
            return news, False
        except OSError as error:
            if error.errno != errno.ECONNRESET:
                raise
        return news, True

    def _news_of(self, told: bytes) -> list[News]:
        message = json.loads(told)
        if "at" in message:
            self._at = message["at"]
        if "say" in message:
            self._say(message["say"])
        return [(message["tracker"], message["why"])] if "tracker" in message else []

    def _attend_end(self) -> list[News]:
        """Notes that the process has ended in the middle of the run."""
        assert self._process is not None
        assert self._end is not None
        self._end.close()
        self._end = None
        status = self._process.wait()  # it has closed all that it had
        if status < 0:
            return self._note_end(f"their process was ended by {signal.Signals(-status).name}")
        return self._note_end(f"their process has ended with status {status}")

    def _note_end(self, why: str) -> list[News]:
        self._restarts += 1
        if self._restarts > RESTARTS:
            self._say(f"{why}, as {RESTARTS} times before; the run goes on without its trackers")
            return [(ALL_TRACKERS, why)]
        self._again_s = self._now() + RESTART_S
        return [(ALL_TRACKERS, why)]

    def _say_what_fails(self, news: list[News]) -> None:
        for name, why in news:
            if why:
                self._say(f"WARNING: cannot write {name}: {why}")
