"""What a worker says while it waits for others."""

import time
from collections.abc import Callable
from typing import Any, Final

from leash.ps.wire.messages import Beaten

SAY_WAITING_S: Final = 5.0  # the same line comes again after so many seconds


class Waiting:
    """Says whom this worker waits for: at once, when it changes, and every few seconds."""

    def __init__(
        self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        """Has said nothing yet.

        Args:
            say: shows a line.
            now: seconds on a clock that never goes back.
        """
        self._say: Final = say
        self._now: Final = now
        self._shown: Any = None
        self._next_s = 0.0

    def server(self, address: str, waited_s: float, wait_s: float) -> None:
        """Says that this worker has waited so many of `wait_s` seconds for a server."""
        self._show(address, f"waiting for a server at {address} ({waited_s:.0f} of {wait_s:g} s)")

    def workers(self, beaten: Beaten | None) -> None:
        """Says which workers are missing, by the newest answer to a beat, until the run starts."""
        if beaten is not None and not beaten.started:
            whom = ", ".join(map(str, beaten.missing)) or "the evaluator"
            self._show(beaten.missing, f"waiting for worker {whom}" if beaten.missing else
                       "waiting for the evaluator")  # fmt: skip

    def _show(self, what: Any, text: str) -> None:
        if what != self._shown or self._now() >= self._next_s:
            self._shown, self._next_s = what, self._now() + SAY_WAITING_S
            self._say(text)
