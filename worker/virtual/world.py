"""Virtual time: a heap of events, and fibers, which are programs that wait in it.

A worker's training loop is an ordinary program that sleeps and waits for answers in its midst. As a
fiber it runs until it waits; then the world takes its next event. Python has no coroutines for
programs that do not know of them, so that each fiber is a thread; but never do two of them run at
the same time, and the order is that of the events alone.
"""

import math
import threading
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

BEGINS_S: Final = 1.0  # what the clock shows at first; some code takes 0 for "never"
SIGNALS_S: Final = 0.2  # of real time: a signal is noticed after this at the latest


class World:
    """The virtual time, and what is to happen, in the order in which it does.

    Attributes:
        now_s: the time, in seconds.
    """

    def __init__(self) -> None:
        """Begins with nothing that is to happen."""
        self.now_s: float = BEGINS_S
        self._events: Final[list[tuple[float, int, Callable[[], None]]]] = []
        self._count = 0
        self._fibers: Final[list[Fiber]] = []

    def clock(self) -> float:
        """What every clock shows now, in seconds."""
        return self.now_s

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        """Has something happen at a time; of equal times, what was asked for first comes first.

        Args:
            when_s: that time; if it has passed, now.
            act: what happens.
        """
        self._count += 1
        heappush(self._events, (max(when_s, self.now_s), self._count, act))

    def spawn(self, name: str, body: Callable[[], None]) -> "Fiber":
        """Makes a fiber, which begins now, once this event is over.

        Args:
            name: of its thread.
            body: its program.
        """
        fiber = Fiber(self, name, body)
        self._fibers.append(fiber)
        self.at(self.now_s, fiber.resume)
        return fiber

    def run(self) -> None:
        """Lets things happen until all fibers have come to their end.

        Raises:
            RuntimeError: a fiber waits for something that will never happen.
            BaseException: what a fiber raised; the others are ended.
        """
        try:
            while not all(fiber.has_ended for fiber in self._fibers):
                if not self._events:
                    waiting = [fiber.name for fiber in self._fibers if not fiber.has_ended]
                    raise RuntimeError(f"nothing will happen any more, and {waiting} still wait")
                self.now_s, _, act = heappop(self._events)
                act()
        finally:
            for fiber in self._fibers:
                fiber.cancel()


class _CancelledError(BaseException):
    """The world has ended before a fiber has."""


class Fiber:
    """A program that waits in virtual time.

    Attributes:
        name: of its thread.
        has_ended: whether the program has.
    """

    def __init__(self, world: World, name: str, body: Callable[[], None]) -> None:
        """Begins nothing: `World.spawn` does.

        Args:
            world: in whose time it waits.
            name: of its thread.
            body: the program.
        """
        self.name: Final = name
        self.has_ended = False
        self._world: Final = world
        self._body: Final = body
        self._turn: Final = threading.Semaphore(0)  # of the fiber
        self._back: Final = threading.Semaphore(0)  # of the world
        self._failure: BaseException | None = None
        self._is_cancelled = False
        self._is_awaited: Callable[[], bool] | None = None  # what it waits for
        self._thread: Final = threading.Thread(target=self._run, name=name, daemon=True)

    # What the program does.

    def wait_until(self, is_so: Callable[[], bool], at_s: float = math.inf) -> None:
        """Waits until something is so, or until a time at the latest.

        Args:
            is_so: tells whether it is. Whoever makes it so calls `wake`.
            at_s: that time.
        """
        self._require_goes_on()
        world = self._world

        def is_awaited() -> bool:
            return world.now_s >= at_s or is_so()

        if is_awaited():
            return
        if at_s < math.inf:
            world.at(at_s, self.wake)
        self._is_awaited = is_awaited
        self._back.release()
        self._turn.acquire()
        self._require_goes_on()

    def sleep(self, seconds: float) -> None:
        """Waits for so many seconds.

        Args:
            seconds: of virtual time.
        """
        self.wait_until(lambda: False, self._world.now_s + seconds)

    # What others do.

    def wake(self) -> None:
        """Has the program go on, if what it waits for is so."""
        if self._is_awaited is not None and self._is_awaited():
            self._is_awaited = None
            self._world.at(self._world.now_s, self.resume)

    def resume(self) -> None:
        """Lets the program run until it waits again.

        Raises:
            BaseException: what it raised.
        """
        if not self._thread.is_alive():
            self._thread.start()
        self._turn.release()
        try:
            # A signal that comes just before a wait does not end it, so this looks up now and then.
            while not self._back.acquire(timeout=SIGNALS_S):
                continue
        except BaseException:  # a signal, while the program runs
            self.cancel()
            raise
        if self._failure is not None:
            raise self._failure

    def cancel(self) -> None:
        """Ends the program where it waits, unless it has ended or never begun."""
        if self.has_ended or self._thread.ident is None:
            return
        self._is_cancelled = True
        self._turn.release()
        self._thread.join()

    def _require_goes_on(self) -> None:
        """Ends a cancelled program here, and wherever else it waits on its way out."""
        if self._is_cancelled:
            raise _CancelledError

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self._is_cancelled:
                self._body()
        except _CancelledError:
            return
        except BaseException as error:
            self._failure = error
        finally:
            self.has_ended = True
            self._back.release()
