"""When a thing is due that is done again and again beside a run, and must cost it little."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final


class Cadence:
    """Has a thing done every so many seconds; more seldom where it takes long.

    ::

        done ──every_s, or its cost / share if that is longer──▸ due
    """

    def __init__(
        self, every_s: float, share: float, now: Callable[[], float] = time.monotonic,
        took: Callable[[], float] = time.thread_time,
    ) -> None:  # fmt: skip
        """It is due now.

        Args:
            every_s: seconds from one to the next.
            share: of a processor's time that it may take, from 0 to 1.
            now: seconds on a clock that never goes back.
            took: seconds of processor time so far.
        """
        self._every_s: Final = every_s
        self._share: Final = share
        self._now: Final = now
        self._took: Final = took
        self._due_s = now()

    @property
    def is_due(self) -> bool:
        """Whether it is to be done now."""
        return self._now() >= self._due_s

    @contextmanager
    def doing(self) -> Iterator[None]:
        """The time in which it is done."""
        began_s = self._took()
        try:
            yield
        finally:
            cost_s = self._took() - began_s
            self._due_s = self._now() + max(self._every_s, cost_s / self._share)
