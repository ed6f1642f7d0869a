"""A worker's signs of life, from a thread of its own with a socket of its own.

A step may take minutes and keep the training thread busy; the server must not take that for death.
This thread keeps what the server answers (how the run stands, or that it goes on without this
worker) for the training thread to look at.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from leash.ps.errors import LeashError, StoppingError
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.messages import Beat, Beaten, Ok, Report

START_BEAT_S: Final = 0.05  # between two beats before training starts, which is to be heard soon
SILENCE_S: Final = 60.0  # a server silent for longer is lost
STOP_S: Final = 2.0  # `stop` waits so long for the last reports to go out


class Liveness:
    """Beats until stopped, and carries reports. Call `start` once, and `stop` in the end."""

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
        self._reported = 0  # how many reports have been sent
        self._beaten: Beaten | None = None
        self._failure: LeashError | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="leash-liveness", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after the reports that wait have gone out, or after `STOP_S` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def tell(self, report: Report) -> None:
        """Queues a report, which the thread sends soon.

        Args:
            report: takes the place of a training report that has not gone out yet.
        """
        with self._changed:
            if self._reports and self._reports[-1].kind == report.kind == "training":
                self._reports.pop()
            self._reports.append(report)
            self._changed.notify_all()

    def check(self) -> None:
        """Raises what ended this worker's part in the run, if anything has.

        Raises:
            LeashError: what the thread met, such as a server that stops or no longer answers.
        """
        if self._failure is not None:
            raise self._failure

    @property
    def beaten(self) -> Beaten | None:
        """The server's newest answer to a beat; None before the first."""
        return self._beaten

    def wait_until(
        self, is_reached: Callable[[Beaten], bool], on_wait: Callable[[Beaten | None], None]
    ) -> Beaten:
        """Waits for an answer to a beat that says what the caller waits for.

        Args:
            is_reached: says of an answer whether it is the one.
            on_wait: called twice a second with the newest answer, or None before the first.

        Returns:
            The answer that satisfies `is_reached`.

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
        """Waits for an answer, an error or the end of the thread, but not longer than this."""
        with self._changed:
            self._changed.wait(seconds)

    def _is_running(self) -> bool:
        return not self._stopped

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
            self._reported += 1
            numbered = replace(report, number=self._reported)
            channel.request(numbered, Ok, timeout_s=SILENCE_S, is_wanted=self._is_running)
            return
        beaten, _ = channel.request(
            self._beat, Beaten, timeout_s=SILENCE_S, is_wanted=self._is_running
        )
        with self._changed:
            self._beaten = beaten
            self._changed.notify_all()
            if beaten.stopping:
                raise StoppingError(beaten.stopping)
            if not self._stopped and not self._reports:
                self._changed.wait(self._beat_s if beaten.initialized else START_BEAT_S)
