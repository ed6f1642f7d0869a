"""Connections as ZeroMQ over TCP gives them: ordered streams, lost with everything in them.

::

    dealer (a worker)   ──── up ────▸   router (a server's port)
                        ◂─── down ───
    connection 1 ──lost──  ──connects again──▸ connection 2, with another route at the server

A message arrives whole or not at all. A lost connection takes along what is in it: of the messages
that are on their way, the first few may still arrive, even after those of the next connection. The
worker learns of loss and new connection late, and in the meantime sends over whichever there is.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from simulation.machines.world import Process, World

if TYPE_CHECKING:
    from simulation.trace import Trace

Frames = list[Any]  # buffers: header, and payload if there is one
NBYTES_PER_S: Final = 1e9
HEADER_NBYTES: Final = 128  # of any: a real one has numbers of this process, such as descriptors
DELAYS: Final = 1024  # how many are drawn; each wire begins at another of them

LOST: Final = "lost"
CONNECTED: Final = "connected"


class Way:
    """One of the two directions of a wire."""

    __slots__ = ("blocked", "free_s", "stalled")

    def __init__(self) -> None:
        self.free_s = 0.0  # when the newest message arrives, which no later one overtakes
        self.blocked = 0  # by how many partitions
        self.stalled: deque[tuple[int, Any]] = deque()  # what arrives once none is left


class Wire:
    """A DEALER of a client and the ROUTER that it connects to."""

    def __init__(
        self, world: World, client: Process, server: Process, name: str, delays: Sequence[float],
        take_up: Callable[[tuple[bytes, Frames]], None], take_down: Callable[[Frames], None],
        take_event: Callable[[str], None], number: int, routes: dict[bytes, "Wire"],
        trace: "Trace | None" = None,
    ) -> None:  # fmt: skip
        """Connects with `connect`.

        Args:
            world: gives the time.
            client: the process with the DEALER.
            server: the process with the ROUTER.
            name: for the trace.
            delays: seconds that messages take, one after the other.
            take_up: gets what arrives at the server, with its route.
            take_down: gets what arrives at the client.
            take_event: hears that the connection was lost, or stands.
            number: of this wire; with it routes are unique.
            routes: gets this wire under the route of each connection.
            trace: takes a line for each message that is sent or arrives.
        """
        self.name: Final = name
        self.client: Final = client
        self.server: Final = server
        self.route = b""
        self.is_up = False
        self.is_closed = False
        self.is_control = False
        self.user = ""  # the key of its client
        self.hears_late_s = 0.0  # how late the client hears of what becomes of the connection
        self.slow_s = 0.0  # so much longer takes each message
        self._number: Final = number
        self._routes: Final = routes
        self._trace: Final = trace
        self._untold: Final[deque[str]] = deque()  # what happened, and the client has not heard of
        self._connection = 0
        self._world: Final = world
        self._delays: Final = delays
        self._place = number * 37 % len(delays)
        self._take_up: Final = take_up
        self._take_down: Final = take_down
        self._take_event: Final = take_event
        self._up: Final = Way()
        self._down: Final = Way()
        self._spared: dict[int, list[int]] = {}  # lost connection ▸ messages each way still to come

    # The client.

    def connect(self, after_s: float = 0.0) -> None:
        """Begins to connect; the client hears of it once the connection stands."""
        self._world.after(after_s + self._delay(), self._stand, self._connection)

    def close(self) -> None:
        """Ends the wire from the client's side. What it has sent still arrives."""
        self.is_closed = True
        self.lose(64, 0)

    def send_up(self, frames: Frames) -> bool:
        """Sends to the server; False if there is no connection, so that nothing was sent."""
        if not self.is_up:
            return False
        if self._trace is not None:
            self._tell_of("▸", frames)
        self._send(self._up, self._arrive_up, frames)
        return True

    def look(self) -> None:
        """Has the client hear at once how the connection stands, if that is news."""
        if self._untold and not self.is_closed:
            newest = self._untold[-1]
            self._untold.clear()
            self._take_event(newest)

    # The server.

    def send_down(self, route: bytes, frames: Frames) -> None:
        """Answers; what goes to a lost connection is lost."""
        if self.is_up and route == self.route and not self.is_closed:
            self._send(self._down, self._arrive_down, frames)

    # What befalls it.

    def lose(self, spared_up: int = 0, spared_down: int = 0, back_s: float = 0.05) -> None:
        """Loses the connection, with what is in it but for the oldest few messages each way.

        Args:
            spared_up: how many messages on their way to the server still arrive.
            spared_down: how many to the client do.
            back_s: after so many seconds the client begins to connect again.
        """
        if not self.is_up:
            return
        self.is_up = False
        self._spared[self._connection] = [spared_up, spared_down]
        if self.client.is_alive and not self.is_closed:
            self._tell(LOST)
            self.connect(back_s)

    def block(self, *, up: int, down: int) -> None:
        """Lets nothing through any more where this is 1, until a call with -1.

        Then TCP brings what was held up, in its order.
        """
        for way, more, arrive in (
            (self._up, up, self._arrive_up), (self._down, down, self._arrive_down),
        ):  # fmt: skip
            way.blocked += more
            while way.stalled and not way.blocked:
                arrive(way.stalled.popleft())

    @property
    def is_blocked(self) -> bool:
        return bool(self._up.blocked or self._down.blocked)

    # How it is done.

    def _delay(self) -> float:
        self._place += 1
        return self._delays[self._place % DELAYS]

    def _send(self, way: Way, arrive: Callable[[Any], None], frames: Frames) -> None:
        world = self._world
        self._place = place = (self._place + 1) % DELAYS
        when_s = world.now_s + self._delays[place] + self.slow_s
        when_s = max(when_s, way.free_s)
        nbytes = HEADER_NBYTES + (len(frames[1]) if len(frames) > 1 else 0)
        way.free_s = when_s = when_s + nbytes / NBYTES_PER_S
        world.at(when_s, arrive, (self._connection, frames))

    def _stand(self, connection: int) -> None:
        if (
            self.is_closed
            or not self.client.is_alive
            or self.is_up
            or (connection != self._connection)
        ):
            return
        if self.is_blocked or not self.server.is_alive:
            self.connect(0.1)  # ZeroMQ tries again and again
            return
        self._connection += 1
        self.route = b"\0" + (self._number * 1000 + self._connection).to_bytes(4, "big")
        self._routes[self.route] = self
        self.is_up = True
        self._tell(CONNECTED)

    def _tell(self, event: str) -> None:
        self._untold.append(event)
        self._world.after(self.hears_late_s, self._hear, self.client.life)

    def _hear(self, life: int) -> None:
        if life == self.client.life and not self.is_closed:
            self.client.take(self._look, None)

    def _look(self, _: None) -> None:
        self.look()

    def _arrive_up(self, what: tuple[int, Frames]) -> None:
        connection, frames = what
        if self._up.blocked:
            self._up.stalled.append(what)
        elif (connection == self._connection and self.is_up) or self._is_spared(connection, 0):
            server = self.server
            if server.is_idle:
                self._take_up((self._route_of(connection), frames))
            else:
                server.take(self._take_up, (self._route_of(connection), frames))

    def _arrive_down(self, what: tuple[int, Frames]) -> None:
        connection, frames = what
        if self._down.blocked:
            self._down.stalled.append(what)
        elif self.is_closed:
            return
        elif (connection == self._connection and self.is_up) or self._is_spared(connection, 1):
            if self._trace is not None:
                self._tell_of("◂", frames)
            client = self.client
            if client.is_idle:
                self._take_down(frames)
            else:
                client.take(self._take_down, frames)

    def _tell_of(self, arrow: str, frames: Frames) -> None:
        assert self._trace is not None
        name = f"{self.name}/{self._connection}"
        self._trace.message(self._world.now_s, self.client.name, arrow, name, frames)

    def _route_of(self, connection: int) -> bytes:
        if connection == self._connection:
            return self.route
        return b"\0" + (self._number * 1000 + connection).to_bytes(4, "big")

    def _is_spared(self, connection: int, way: int) -> bool:
        left = self._spared.get(connection)
        if left is None or not left[way]:
            return False
        left[way] -= 1
        return True
