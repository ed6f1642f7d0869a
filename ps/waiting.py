"""Waits for sockets as a server does: asleep when little happens, awake in a dense exchange."""

import time
from collections.abc import Callable
from typing import Any, Final

import zmq

# Where messages come sooner than this after one another, a server does not sleep in between: on a
# virtual machine, to wake a processor that has gone idle costs more than a small exchange.
SPIN_S: Final = 100e-6


class Waiting:
    """A poller that looks for a moment before it sleeps, if the last message came that soon."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._poller: Final = zmq.Poller()
        self._now: Final = now
        self._waited_s = SPIN_S  # for the newest message

    def add(self, source: Any) -> None:
        """A socket of ZeroMQ, or a file descriptor."""
        self._poller.register(source, zmq.POLLIN)

    def remove(self, source: Any) -> None:
        """One that was not added does no harm."""
        if source in self._poller:
            self._poller.unregister(source)

    def wait(self, timeout_ms: int, *, spin: bool = True) -> list[Any]:
        """The sources that have something to read; none if nothing came in time.

        Args:
            spin: whether to look for a moment. Not where much travels: the threads that carry it
                need the processor.
        """
        began_s = self._now()
        events = self._poller.poll(0)
        if spin and self._waited_s < SPIN_S:
            while not events and self._now() - began_s < SPIN_S:
                events = self._poller.poll(0)
        events = events or self._poller.poll(timeout_ms)
        self._waited_s = self._now() - began_s
        return [source for source, _ in events]
