"""What a worker says while it waits for others, or for its server."""

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from leash._log import Say
from leash.ps.wire.messages import Beaten
from leash.ps.words import named_workers
from leash.ps.words import seconds as in_words

SAY_WAITING_S: Final = 5.0  # a command says the same line again after so many seconds
SAY_SELDOM_S: Final = 60.0  # while a run goes on, the same line comes again after so many
OUTAGE_S: Final = 3.0  # a server that is silent for a shorter time may be busy
MOMENT_S: Final = 2.0  # a library says nothing of a wait that is shorter


class Waiting:
    """Says whom this worker waits for: soon, when it changes, and every few seconds."""

    def __init__(
        self, say: Say, *, after_s: float = 0.0, again_s: float = SAY_WAITING_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Has said nothing yet.

        Args:
            say: shows a line.
            after_s: seconds of waiting before the first line.
            again_s: seconds after which the same line comes again.
            now: seconds on a clock that never goes back.
        """
        self._say: Final = say
        self._after_s: Final = after_s
        self._again_s: Final = again_s
        self._now: Final = now
        self._began_s: float | None = None
        self._shown: str | None = None
        self._next_s = 0.0

    @classmethod
    def of_library(cls, say: Say, now: Callable[[], float] = time.monotonic) -> "Waiting":
        """Makes one for people's own programs: it says nothing of a moment, and nothing twice.

        Args:
            say: shows a line.
            now: seconds on a clock that never goes back.
        """
        return cls(say, after_s=MOMENT_S, again_s=math.inf, now=now)

    @classmethod
    def for_others(cls, say: Say, now: Callable[[], float] = time.monotonic) -> "Waiting":
        """Makes one for a run that goes on: it says seldom that others are slow.

        Args:
            say: shows a line.
            now: seconds on a clock that never goes back.
        """
        return cls(say, again_s=SAY_SELDOM_S, now=now)

    def others(self, whom: str) -> None:
        """Says for whom this worker waits, in the words of the server.

        Args:
            whom: such as "worker 3 for 41 s (in backward since 14:02)"; empty for nobody.
        """
        if whom:
            self._show(" ".join(whom.split()[:2]), f"waiting for {whom}")
        else:
            self._shown = self._began_s = None

    def server(self, address: str, waited_s: float, wait_s: float) -> None:
        """Says that this worker has waited so many of `wait_s` seconds for a server."""
        self._show(address, f"waiting for a server at {address} ({waited_s:.0f} of {wait_s:g} s)")

    def workers(self, beaten: Beaten | None) -> None:
        """Says for whom the run waits, by the newest answer to a beat, until it has begun."""
        if whom := awaited(beaten):
            self._show(whom, f"waiting for {whom}")

    def _show(self, what: str, text: str) -> None:
        now_s = self._now()
        self._began_s = now_s if self._began_s is None else self._began_s
        if now_s - self._began_s < self._after_s:
            return
        if what != self._shown or now_s >= self._next_s:
            self._shown, self._next_s = what, now_s + self._again_s
            self._say(text)


def awaited(beaten: Beaten | None) -> str:
    """Names those without whom the run does not begin, by the newest answer to a beat.

    Args:
        beaten: that answer; None before the first.

    Returns:
        Such as "workers 2-3"; empty where nobody is missing, or nothing is known yet.
    """
    if beaten is None:
        return ""
    if not beaten.started:
        return named_workers(beaten.missing) if beaten.missing else "the evaluator"
    begins = beaten.initialize or beaten.initialized
    return "" if begins else "the first values, which the live worker of the lowest rank sends"


class Outage:
    """Says that a server does not answer: once, then seldom, and when it answers again.

    Any thread may call it.
    """

    def __init__(
        self, say: Say, address: str, patience_s: float,
        clock: Callable[[], float] = time.time, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Has said nothing yet.

        Args:
            say: shows a line.
            address: of the server, for people.
            patience_s: this worker keeps trying for so long; may be infinite.
            clock: seconds since 1970.
            now: seconds on a clock that never goes back.
        """
        self._say: Final = say
        self._address: Final = address
        self._patience_s: Final = patience_s
        self._clock: Final = clock
        self._now: Final = now
        self._lock: Final = threading.Lock()
        self._began_s: float | None = None  # when the silence began that was said
        self._ended_s = -math.inf  # when the server last answered after one
        self._next_s = 0.0

    def note(self, waited_s: float) -> None:
        """Notes for how long a request has had no answer; 0 says that it has one now.

        Args:
            waited_s: seconds.
        """
        with self._lock:
            if waited_s > 0:
                self._silent(waited_s)
            elif self._began_s is not None:
                lasted = in_words(self._now() - self._began_s)
                self._began_s, self._ended_s, self._next_s = None, self._now(), 0.0
                self._say(f"the server at {self._address} answers again, after {lasted}")

    def _silent(self, waited_s: float) -> None:
        now_s = self._now()
        began_s = now_s - waited_s
        # Of two requests that went without an answer, only one has been answered yet.
        if waited_s < OUTAGE_S or began_s < self._ended_s or now_s < self._next_s:
            return
        if self._began_s is None:
            self._began_s = began_s
        self._next_s = now_s + SAY_SELDOM_S
        since = time.strftime("%H:%M:%S", time.localtime(self._clock() - (now_s - self._began_s)))
        tries = "for ever" if math.isinf(self._patience_s) else f"for {in_words(self._patience_s)}"
        self._say(
            f"waiting for the server at {self._address}, which has not answered since {since}; "
            f"this worker keeps trying {tries} (--patience), and then goes on by itself"
        )
