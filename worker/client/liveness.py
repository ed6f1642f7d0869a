"""A worker's signs of life, from a thread of its own with a socket of its own.

A step may take minutes and hold this process busy; it is no death. What the server answers (how
the run stands, or that it goes on without us) is kept for the training thread to look at.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from leash.ps.errors import LeashError, StoppingError
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.messages import Beat, Beaten, Ok, Report

START_BEAT_S: Final = 0.05  # until training starts: a newcomer wants to know soon
ANSWER_TIMEOUT_S: Final = 10.0  # a server silent for longer is lost
STOP_S: Final = 2.0  # what was told last has this long to go out


class Liveness:
    """Beats until stopped, and carries reports. `start` once, `stop` in the end."""

    def __init__(self, address: str, worker: int, incarnation: int, beat_s: float) -> None:
        """Makes the thread, which `start` starts.

        Args:
            address: tcp://HOST:PORT of the control socket.
            worker: the rank; 0 for an observer.
            incarnation: from the answer to this process's hello.
            beat_s: seconds between two beats once training has started.
        """
        self._address: Final = address
        self._beat: Final = Beat(worker, incarnation)
        self._beat_s: Final = beat_s
        self._changed: Final = threading.Condition()
        self._reports: deque[Report] = deque()
        self._beaten: Beaten | None = None
        self._failure: LeashError | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="leash-liveness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, when what was told has gone out or has waited for too long."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def tell(self, report: Report) -> None:
        """Sends a report soon. A training report that has not gone out yet is replaced."""
        with self._changed:
            if self._reports and self._reports[-1].kind == report.kind == "training":
                self._reports.pop()
            self._reports.append(report)
            self._changed.notify_all()

    def check(self) -> None:
        """Raises what ended this worker's part in the run, if anything has."""
        if self._failure is not None:
            raise self._failure

    @property
    def beaten(self) -> Beaten | None:
        """The server's newest answer to a beat."""
        return self._beaten

    def wait_until(
        self, is_reached: Callable[[Beaten], bool], on_wait: Callable[[Beaten | None], None]
    ) -> Beaten:
        """Waits for an answer that satisfies `is_reached`; calls `on_wait` twice a second.

        Raises:
            LeashError: what ended this worker's part in the run.
        """
        with self._changed:
            while self._beaten is None or not is_reached(self._beaten):
                self.check()
                self._changed.wait(0.5)
                on_wait(self._beaten)
            return self._beaten

    def pause(self, seconds: float) -> None:
        """Lets some time pass, but none in which there is news."""
        with self._changed:
            self._changed.wait(seconds)

    def _run(self) -> None:
        channel = ControlChannel(self._address)
        try:
            while not self._stopped or self._reports:
                self._exchange(channel)
        except LeashError as error:
            self._fail(error)
        except Exception as error:
            # A thread that ended silently would look like a server that has nothing to say.
            self._fail(LeashError(f"the liveness thread failed: {error!r}"))
            raise
        finally:
            channel.close()

    def _fail(self, error: LeashError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _exchange(self, channel: ControlChannel) -> None:
        with self._changed:
            report = self._reports.popleft() if self._reports else None
        if report is not None:
            channel.request(report, Ok, timeout_s=ANSWER_TIMEOUT_S)
            return
        beaten, _ = channel.request(self._beat, Beaten, timeout_s=ANSWER_TIMEOUT_S)
        with self._changed:
            self._beaten = beaten
            self._changed.notify_all()
            if beaten.stopping:
                raise StoppingError(beaten.stopping)
            if not self._stopped and not self._reports:
                self._changed.wait(self._beat_s if beaten.initialized else START_BEAT_S)
