"""Virtual time: a heap of events, and processes whose clocks drift, which pause and are killed.

::

    world      now_s, and what happens next: (when, number, act, argument)
    process    alive ──kill──▸ dead ──restart──▸ alive, in its next life
                 └──pause──▸ paused: what is due waits ──resume──▸ alive

Nothing here is random: who draws from a seed says when things happen.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

Act = Callable[[Any], None]


class World:
    """The true time, and everything that is to happen, in the order in which it does."""

    def __init__(self) -> None:
        self.now_s: float = 0.0
        self.is_over = False
        self._events: Final[list[tuple[float, int, Act, Any]]] = []
        self._count = 0

    def at(self, when_s: float, act: Act, argument: Any = None) -> None:
        """Has `act(argument)` happen at this time; of equal times, what was asked for first."""
        self._count += 1
        heappush(self._events, (when_s, self._count, act, argument))

    def after(self, seconds: float, act: Act, argument: Any = None) -> None:
        """Has `act(argument)` happen after so many seconds."""
        self.at(self.now_s + seconds, act, argument)

    def run(self, until_s: float) -> None:
        """Lets things happen until somebody says that it is over, or until this time."""
        events = self._events
        while events and not self.is_over:
            when_s, _, act, argument = heappop(events)
            if when_s > until_s:
                return
            self.now_s = when_s
            act(argument)


class Process:
    """Something that runs on a machine of its own, by a clock of its own."""

    def __init__(self, world: World, name: str, *, rate: float = 1.0, began_s: float = 0.0) -> None:
        """Args:
        world: where it runs.
        name: for the trace.
        rate: seconds of its clock in a true second.
        began_s: what its clock shows at the true time 0.
        """
        self.world: Final = world
        self.name: Final = name
        self.life: int = 1  # grows with every start
        self.is_alive: bool = True
        self._held_up_s = 0.0  # for how long it was paused or busy, the rest of now included
        self._held_until_s = 0.0
        self._busy_until_s = 0.0  # its clock is ahead until then: it works, and sees time pass
        self._rate: Final = rate
        self._began_s: Final = began_s
        self._waiting: Final[deque[tuple[Act, Any]]] = deque()  # what was due during a pause

    def clock(self) -> float:
        """What this process's clock shows now, in seconds; it never goes back."""
        return self._began_s + self._rate * max(self.world.now_s, self._busy_until_s)

    def busy(self, seconds: float) -> None:
        """Works for so many seconds of its clock, which passes at once for itself."""
        self._busy_until_s = max(self._busy_until_s, self.world.now_s) + seconds / self._rate
        self._hold_up(self._busy_until_s)

    def at(self, clock_s: float, act: Act, argument: Any = None) -> None:
        """Has something happen here once the clock shows this, unless the process dies before."""
        world = self.world
        when_s = max(world.now_s, (clock_s - self._began_s) / self._rate)
        world.at(when_s, self._due, (self.life, act, argument))

    def after(self, seconds: float, act: Act, argument: Any = None) -> None:
        """Has something happen here after so many seconds of this process's clock."""
        world = self.world
        world.at(world.now_s + seconds / self._rate, self._due, (self.life, act, argument))

    @property
    def held_up_s(self) -> float:
        """For how long it was paused or busy so far, all together."""
        return self._held_up_s - max(0.0, self._held_until_s - self.world.now_s)

    def take(self, act: Act, argument: Any) -> None:
        """Does something that comes from outside: now, or after the pause; a dead one does not."""
        if not self.is_alive:
            return
        if self._held_until_s > self.world.now_s:
            self._waiting.append((act, argument))
        else:
            act(argument)

    def pause(self, seconds: float) -> None:
        """Stops for so long, as by SIGSTOP; its clock goes on. Then it does what was due."""
        if self.is_alive:
            self._hold_up(self.world.now_s + seconds)

    @property
    def is_idle(self) -> bool:
        """Whether it takes what comes at once."""
        return self.is_alive and self._held_until_s <= self.world.now_s

    @property
    def is_held_up(self) -> bool:
        """Whether it is paused or busy, so that what comes has to wait."""
        return self._held_until_s > self.world.now_s

    def kill(self) -> None:
        """Ends at once, as by `kill -9`: nothing of what it was to do happens."""
        self.is_alive = False
        self._held_until_s = self._busy_until_s = 0.0
        self._waiting.clear()

    def restart(self) -> None:
        """Begins its next life, of which the owner knows what it is to do."""
        self.life += 1
        self.is_alive = True

    def _hold_up(self, until_s: float) -> None:
        now_s = self.world.now_s
        if until_s > self._held_until_s:
            self._held_up_s += until_s - max(now_s, self._held_until_s)
            self._held_until_s = until_s
            self.world.at(until_s, self._go_on, self.life)

    def _go_on(self, life: int) -> None:
        while self._waiting and life == self.life and self.is_alive:
            if self._held_until_s > self.world.now_s:
                return
            act, argument = self._waiting.popleft()
            act(argument)

    def _due(self, what: tuple[int, Act, Any]) -> None:
        life, act, argument = what
        if life == self.life:
            self.take(act, argument)
