"""What a worker says while it waits for others."""

import math
import time
from collections.abc import Callable
from typing import Final

from leash._log import Say
from leash.ps.wire.messages import Beaten

SAY_WAITING_S: Final = 5.0  # a command says the same line again after so many seconds
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
        Such as "worker 2, 3"; empty where nobody is missing, or nothing is known yet.
    """
    if beaten is None:
        return ""
    if not beaten.started:
        missing = ", ".join(map(str, beaten.missing))
        return f"worker {missing}" if missing else "the evaluator"
    begins = beaten.initialize or beaten.initialized
    return "" if begins else "the first values, which the live worker of the lowest rank sends"
