"""A worker's signs of life, from a thread of its own with a socket of its own.

A step may take minutes and keep the training thread busy; the server must not take that for death.
`Beats` decides what is sent, and when. This thread waits and carries it, and keeps what the server
answers (how the run stands, or that it goes on without this worker) for the training thread to
look at.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from leash._log import Say
from leash.ps.errors import LeashError
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.keys import ClientKey
from leash.ps.wire.messages import Beaten, Report
from leash.ps.words import WAITING
from leash.worker.client.control.departure import Departure
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.session import Beats
from leash.worker.client.control.waiting import Outage, Waiting

STOP_S: Final = 2.0  # who leaves early waits no longer for its last reports to go out
LOOK_S: Final = 0.5


class Liveness:
    """Beats until stopped, and carries reports. Call `start` once, and `stop` in the end.

    Attributes:
        outages: how often the server has answered again after a silence.
        is_silent: whether a beat has gone without an answer for a while.
    """

    def __init__(
        self, address: str, beats: Beats, outage: Outage | None = None, say: Say | None = None,
        doing: Doing | None = None, key: ClientKey | None = None,
        departure: Departure | None = None,
    ) -> None:  # fmt: skip
        """Makes the thread, which `start` starts.

        Args:
            address: tcp://HOST:PORT of the control socket.
            beats: says what is to be sent, and when. Nobody else calls it.
            outage: says that the server does not answer; None for nobody.
            say: shows for whom this worker waits, and where it is stuck; None for nobody.
            doing: knows what the training thread does.
            key: for a server that has keys.
            departure: hears that this worker is to go; None for nobody.
        """
        self.outages: int = 0
        self.is_silent: bool = False
        self._address: Final = address
        self._key: Final = key
        self._beats: Final = beats
        self._departure: Final = departure
        self._outage: Final = outage
        self._say: Final = say
        self._doing: Final = doing
        self._others: Final = Waiting.for_others(say) if say is not None else None
        self._changed: Final = threading.Condition()
        self._failure: LeashError | None = None
        self._thread = threading.Thread(target=self._run, name="leash-liveness", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, limit_s: float = STOP_S, is_over: Callable[[], bool] = lambda: False) -> None:
        """Ends the thread, after the reports that wait have gone out.

        Args:
            limit_s: seconds to wait for that.
            is_over: asked now and then; ends the wait.
        """
        with self._changed:
            self._beats.stop()
            self._changed.notify_all()
        until_s = time.monotonic() + limit_s
        while not self.has_ended and (left_s := until_s - time.monotonic()) > 0:
            self._thread.join(min(LOOK_S, left_s))
            if not self.has_ended and is_over():
                break
        self._beats.hurry(time.monotonic())

    @property
    def has_ended(self) -> bool:
        """Whether the thread has ended, or never began, so that another may carry the beats."""
        return not self._thread.is_alive()

    @property
    def failure(self) -> LeashError | None:
        """What ended this worker's part in the run, if anything has."""
        return self._failure

    def tell(self, report: Report) -> None:
        """Queues a report, which the thread sends soon.

        Args:
            report: takes the place of a training report that has not gone out yet.
        """
        with self._changed:
            self._beats.tell(report)
            self._changed.notify_all()

    def log(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Queues a row that the loop has logged; False if too many wait, so that it is left out.

        Args:
            step: to which it belongs.
            metrics: its numbers by their names, checked.
        """
        with self._changed:
            rows = self._beats.rows
            if rows.is_empty:  # otherwise the thread knows when it is to send some
                self._changed.notify_all()
            return rows.add(step, metrics)

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
        return self._beats.beaten

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
            while (beaten := self.beaten) is None or not is_reached(beaten):
                self.check()
                self._changed.wait(LOOK_S)
                on_wait(self.beaten)
            return beaten

    def pause(self, seconds: float) -> None:
        """Waits for an answer, an error or the end of the thread, but not longer than this."""
        with self._changed:
            self._changed.wait(seconds)

    def _run(self) -> None:
        channel = ControlChannel(self._address, on_silence=self._on_silence, key=self._key)
        try:
            while self._await_request():
                before = self.beaten
                channel.carry(self._beats)
                channel.require_answer(self._beats)
                if (beaten := self.beaten) is not None and beaten is not before:
                    self._tell_of(beaten)
                    with self._changed:
                        self._changed.notify_all()
        except LeashError as error:
            self._fail(error)
        except Exception as error:
            # A thread that ended silently would look like a server that has nothing to say.
            self._fail(LeashError(f"the liveness thread failed: {error!r}"))
            raise
        finally:
            channel.close()

    def _await_request(self) -> bool:
        """Waits until there is something to send, and begins it; False once there never will be."""
        with self._changed:
            while not self._beats.is_over:
                if self._departure is not None:
                    self._departure.look()
                now_s = time.monotonic()
                self._beats.begin(now_s)
                if self._beats.is_busy:
                    return True
                self._changed.wait(self._beats.wake_s - now_s)
        return False

    def _on_silence(self, waited_s: float) -> None:
        self.is_silent = waited_s > 0
        self.outages += not self.is_silent
        if self._outage is not None:
            self._outage.note(waited_s)

    def _tell_of(self, beaten: Beaten) -> None:
        """Says for whom this worker waits; and where it is stuck, if the server asks for that."""
        if beaten.leave and self._departure is not None:
            self._departure.tell(beaten.leave)
        if self._say is None or self._others is None or self._doing is None:
            return
        self._others.others(beaten.awaited if self._doing.phase == WAITING else "")
        if beaten.stack:
            phase, phase_s = self._doing.told()
            stack = self._doing.stack().decode().rstrip()
            self._say(f"asked where it is: in {phase} for {phase_s:.0f} s\n{stack}")

    def _fail(self, error: LeashError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()
