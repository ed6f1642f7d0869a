"""The simulated network: what a message takes from a worker to the server, and back.

Each way through the server's link is one pipe: what comes later waits until what came before is
through. Then a message travels for its latency. Over one connection messages keep their order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from leash.ps.slowness.delays import TRAVELLING, Delays
from leash.ps.slowness.grammar import Slowness
from leash.worker.virtual.world import World

Frames: TypeAlias = list[bytes | bytearray]


@dataclass
class Pipe:
    """One direction of the server's link.

    Attributes:
        bytes_per_s: how much goes through it.
        free_s: when what has been put into it is through.
    """

    bytes_per_s: float
    free_s: float = 0.0

    def through_s(self, now_s: float, nbytes: int) -> float:
        """Puts a message into the pipe; returns when it is through.

        Args:
            now_s: the time.
            nbytes: its size.
        """
        self.free_s = max(now_s, self.free_s) + nbytes / self.bytes_per_s
        return self.free_s


class Connection:
    """One connection of a machine to the server.

    Attributes:
        route: its name at the server.
    """

    def __init__(
        self, world: World, pipes: tuple[Pipe, Pipe] | None, delays: Delays, route: bytes,
        take: Callable[["Connection", Frames], None], hear: Callable[[Frames], None],
    ) -> None:  # fmt: skip
        """Stands from now on.

        Args:
            world: in whose time messages travel.
            pipes: of the server's link, up and down; None if messages are so small that they wait
                for nobody's.
            delays: draws what a message takes.
            route: its name at the server.
            take: takes what reaches the server.
            hear: takes what reaches the machine.
        """
        self.route: Final = route
        self._world: Final = world
        self._up: Final = pipes[0] if pipes else None
        self._down: Final = pipes[1] if pipes else None
        self._delays: Final = delays
        self._take: Final = take
        self._hear: Final = hear
        self._last_up_s = self._last_down_s = 0.0  # when the newest message arrives

    def send(self, frames: Frames) -> None:
        """Sends a message to the server.

        Args:
            frames: of it.
        """
        self._last_up_s = max(self._last_up_s, self._arrives_s(self._up, frames))
        self._world.at(self._last_up_s, lambda: self._take(self, frames))

    def answer(self, frames: Frames) -> None:
        """Sends a message to the machine.

        Args:
            frames: of it.
        """
        self._last_down_s = max(self._last_down_s, self._arrives_s(self._down, frames))
        self._world.at(self._last_down_s, lambda: self._hear(frames))

    def _arrives_s(self, pipe: Pipe | None, frames: Sequence[bytes | bytearray]) -> float:
        now_s = self._world.now_s
        left_s = pipe.through_s(now_s, sum(map(len, frames))) if pipe else now_s
        return left_s + self._delays.next(now_s)


class Network:
    """The network between the machines and the server."""

    def __init__(
        self, world: World, latencies: Sequence[Slowness], bandwidth_gbit: float, seed: int
    ) -> None:
        """Begins with no connection.

        Args:
            world: in whose time messages travel.
            latencies: by rank: what a message takes, one way. That of an observer is the first's.
            bandwidth_gbit: of the server's link, each way, in 10⁹ bits a second.
            seed: of the run.
        """
        bytes_per_s = bandwidth_gbit * 1e9 / 8
        self._world: Final = world
        self._latencies: Final = latencies
        self._seed: Final = seed
        self._pipes: Final = (Pipe(bytes_per_s), Pipe(bytes_per_s))
        self._count = 0

    def connect(
        self, rank: int, take: Callable[[Connection, Frames], None],
        hear: Callable[[Frames], None], *, carries_data: bool,
    ) -> Connection:  # fmt: skip
        """Makes a connection.

        Args:
            rank: of the machine; 0 for an observer.
            take: takes what reaches the server.
            hear: takes what reaches the machine.
            carries_data: whether its messages are large.
        """
        self._count += 1
        latency = self._latencies[max(0, rank - 1)]
        return Connection(
            self._world, self._pipes if carries_data else None,
            Delays(latency, seed=self._seed, rank=rank, use=TRAVELLING),
            self._count.to_bytes(5, "big"), take, hear,
        )  # fmt: skip
