"""Whose reply goes out when: a run's clock, as the simulator asks it.

What decides is the core's own clock; here is only who waits for what.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Final, Protocol

from ps._core import StalenessClock
from ps.policy import Rule


class Gate(Protocol):
    """The policy of a run. What every call returns is whose replies go out now."""

    def join(self, worker: int) -> None:
        """A worker takes part from now on, level with the slowest."""

    def leave(self, worker: int) -> list[int]:
        """Nobody waits for this one any more; it may have been waiting itself."""

    def tick(self, worker: int, now_s: float) -> list[int]:
        """A worker's push has arrived."""

    def lag(self, worker: int) -> int:
        """Steps that a worker is ahead of the slowest."""

    def version(self) -> int:
        """Updates so far."""


class ClockGate:
    """bsp, ssp and asp: a reply waits until the smallest clock is near enough to its worker's.

    The waiting stand in a list for each smallest clock that they wait for, so that a tick looks at
    nobody whom it does not let go.
    """

    def __init__(self, rule: Rule) -> None:
        self._clock: Final = StalenessClock(rule.bound)
        self._bound: Final = rule.bound
        self._average: Final = rule.policy.average
        self._waiting: Final[defaultdict[int, list[int]]] = defaultdict(list)
        self._awaited: Final[dict[int, int]] = {}  # by each who waits: the smallest clock
        self._minimum = 0
        self._updates = 0

    def join(self, worker: int) -> None:
        self._clock.join(worker, self._clock.minimum())

    def leave(self, worker: int) -> list[int]:
        self._clock.leave(worker)
        if (awaited := self._awaited.pop(worker, None)) is not None:
            self._waiting[awaited].remove(worker)
        return self._let_go()

    def tick(self, worker: int, now_s: float) -> list[int]:
        clock = self._clock.tick(worker)
        self._updates += 1
        if self._bound is None:
            return [worker]
        released = self._let_go()
        awaited = clock - self._bound
        if awaited <= self._minimum:
            released.append(worker)
        else:
            self._waiting[awaited].append(worker)
            self._awaited[worker] = awaited
        return released

    def lag(self, worker: int) -> int:
        return self._clock.lag(worker)

    def version(self) -> int:
        return self._clock.minimum() if self._average else self._updates

    def _let_go(self) -> list[int]:
        """Those who waited for the smallest clock that there is now, or for one before it."""
        released: list[int] = []
        minimum = self._clock.minimum()
        while self._minimum < minimum:
            self._minimum += 1
            workers = self._waiting.pop(self._minimum, [])
            for worker in workers:
                del self._awaited[worker]
            released += workers
        return released


# By policy: what makes its gate of a rule.
GATES: Final[dict[str, Callable[[Rule], Gate]]] = {
    "bsp": ClockGate,
    "ssp": ClockGate,
    "asp": ClockGate,
}
