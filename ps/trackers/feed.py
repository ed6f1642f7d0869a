"""Keeps one tracker fed, whatever becomes of it: what it cannot take waits until it can."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from leash.ps.trackers.curves import Point

REOPEN_S: Final = 10.0  # after a failure, until the tracker is opened anew
WAITING_MAX: Final = 100_000  # points; the oldest of more are lost
AT_ONCE: Final = 1000  # points that a tracker is given at a time
WHY_MAX: Final = 200  # characters


class Tracker(Protocol):
    """Draws or keeps the points of a run. Each method may raise anything."""

    def write(self, points: Sequence[Point]) -> None:
        """Takes these points, in their order."""
        ...

    def close(self) -> None:
        """Writes or sends what is left."""
        ...


# Hears that a tracker cannot go on, and why; with "" that it can again.
OnFailure: TypeAlias = Callable[[str, str], None]


class TrackerFeed:
    """One tracker of a run, and the points that it does not have yet.

    Attributes:
        name: of the tracker.
        lost: how many points it will never have.
    """

    def __init__(
        self, name: str, opens: Callable[[], Tracker], on_failure: OnFailure,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Opens nothing yet.

        Args:
            name: of the tracker.
            opens: makes it; called again after each failure.
            on_failure: hears of failures, and of their end.
            now: seconds on a clock that never goes back.
        """
        self.name: Final = name
        self.lost: int = 0
        self._opens: Final = opens
        self._on_failure: Final = on_failure
        self._now: Final = now
        self._waiting: Final[deque[Point]] = deque()
        self._tracker: Tracker | None = None
        self._why = ""  # it fails; empty while it does not
        self._again_s = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether the tracker has all points."""
        return not self._waiting

    def put(self, points: Sequence[Point]) -> None:
        """Takes points for it."""
        self._waiting.extend(points)
        while len(self._waiting) > WAITING_MAX:
            self._waiting.popleft()
            self.lost += 1

    def advance(self) -> None:
        """Gives the tracker what waits, if it takes it. Never raises."""
        if self._why and self._now() < self._again_s:
            return
        try:
            if self._tracker is None:
                self._tracker = self._opens()
            while self._waiting:
                points = [self._waiting[n] for n in range(min(AT_ONCE, len(self._waiting)))]
                self._tracker.write(points)
                for _ in points:
                    self._waiting.popleft()
        except Exception as error:
            self._fail(error)
        else:
            self._tell("")

    def close(self) -> None:
        """Gives it what waits, and closes it. Never raises."""
        self._again_s = 0.0
        self.advance()
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            try:
                tracker.close()
            except Exception as error:
                self._tell(why_text(error))

    def _fail(self, error: Exception) -> None:
        self._again_s = self._now() + REOPEN_S
        tracker, self._tracker = self._tracker, None
        self._tell(why_text(error))
        if tracker is not None:
            try:
                tracker.close()
            except Exception as another:
                self._tell(why_text(another))

    def _tell(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._on_failure(self.name, why)


def why_text(error: Exception) -> str:
    """Shortens an error to one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = " ".join(str(error).split())[:WHY_MAX]
    return line or type(error).__name__
