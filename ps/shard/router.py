"""Sends and receives at the server, so that a peer that is gone or does not read delays nobody."""

import mmap
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import zmq

from leash.ps import _core
from leash.ps.options.server import ServerOptions
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.identities import NOBODY
from leash.ps.wire.curve import Doorman
from leash.ps.wire.intake import Conduct, Frames, Intake, LaneIntake, PeerLimits, open_intake
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    Payload,
    data_max_nbytes,
    data_queue,
    make_router,
    send_first,
)

BURST: Final = 16  # messages of a data socket in a row, before the control socket has its turn
# Of a lane, before the server looks whether anything of its own is due. Others have their turns.
MOST_IN_A_TURN: Final = 4096
Handle: TypeAlias = Callable[[Frames, str], Conduct]


class Poller(Protocol):
    """Waits for sockets and descriptors, as zmq.Poller does."""

    def register(self, source: Any, flags: int = zmq.POLLIN) -> None:
        """Waits for this one too, or no longer if there are no flags."""
        ...

    def unregister(self, source: Any) -> None:
        """Waits for it no longer."""
        ...

    def __contains__(self, source: Any) -> bool:
        """Whether it is waited for."""
        ...

    def poll(self, timeout_ms: int) -> list[tuple[Any, int]]:
        """Waits for so long at most; gives those that can be read, each with zmq.POLLIN."""
        ...


class LanePoller:
    """Waits for a server's sources, while a lane serves its data socket. Implements Poller.

    The data socket can be read, as far as others know, where its newest message is not for the
    lane; `DataRouter.take` takes that.

    Attributes:
        desk: whose engine takes the messages; None leaves all of them.
    """

    def __init__(self, lane: _core.ShardLane, data: zmq.Socket[bytes], most: int) -> None:
        """Waits for nothing yet.

        Args:
            lane: of the data socket.
            data: that socket.
            most: how many messages it may take in a row.
        """
        self.desk: DataDesk | None = None
        self._lane: Final = lane
        self._most: Final = most
        self._sources: Final[list[Any]] = [data]  # at the places that the lane knows
        self._takes_data = False

    def register(self, source: Any, flags: int = zmq.POLLIN) -> None:
        """Waits for this one too; whether the data socket is served depends on the flags."""
        if source is self._sources[0]:
            self._takes_data = bool(flags)
            return
        if isinstance(source, int):
            self._lane.add_fd(source)
        else:
            self._lane.add_socket(source.underlying)
        self._sources.append(source)

    def unregister(self, source: Any) -> None:
        """Waits for it no longer."""
        place = self._sources.index(source, 1)
        self._lane.remove(place)
        del self._sources[place]

    def __contains__(self, source: Any) -> bool:
        """Whether it is waited for."""
        return source in self._sources[1:]

    def poll(self, timeout_ms: int) -> list[tuple[Any, int]]:
        """Serves the data socket until something else can be read, for so long at most."""
        desk = self.desk
        engine = None if desk is None else desk.engine
        # Who has to look at the chunks after each message does.
        most = 1 if desk is not None and desk.is_aligning else self._most
        ready = self._lane.poll(engine, timeout_ms / 1000, most, self._takes_data)
        return [(self._sources[place], zmq.POLLIN) for place in ready]


def send(socket: zmq.Socket[bytes], route: bytes, header: bytes, payload: Payload) -> bool:
    """Sends a message to one peer; returns False if that peer does not read.

    A peer that is gone misses the message, which is no failure.
    """
    try:
        if not send_first(socket, route, zmq.SNDMORE):
            return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return True  # it asks again when it comes back, or is evicted
    if payload is None:
        socket.send(header, zmq.DONTWAIT)
        return True
    socket.send(header, zmq.SNDMORE | zmq.DONTWAIT)
    # No code writes to an answer's memory once it is made, so ZeroMQ may read it where it lies.
    lies_still = isinstance(payload, zmq.Frame) or len(payload) >= COPY_BELOW_NBYTES
    socket.send(payload, zmq.DONTWAIT, copy=not lies_still)
    return True


class DataRouter:
    """The data socket of one shard."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], options: ServerOptions, host: str, port: int,
        doorman: Doorman | None = None, *, has_lane: bool = True,
    ) -> None:  # fmt: skip
        """Listens.

        Args:
            context: of the socket.
            options: of the server.
            host: where to listen.
            port: at which; 0 for any free one.
            doorman: lets in those who have a key; without one, everybody may come.
            has_lane: whether a lane may serve it, by the clock of ``time.monotonic``.

        Raises:
            UsageError: the port is taken, or the address is not this host's.
        """
        max_nbytes, window = data_max_nbytes(options.chunk_nbytes), options.window
        members = len(options.ranks)
        self.socket: Final = make_router(context, data_queue(window), max_nbytes, window, doorman)
        self._knows_senders: Final = doorman is not None
        self.intake: Final[Intake] = open_intake(
            context, self.socket, host, port, PeerLimits.of(members, max_nbytes, window)
        )
        self.port: Final = self.intake.port
        self._lane: Final[_core.ShardLane | None] = (
            self.intake.lane(knows_senders=self._knows_senders, burst=BURST)
            if has_lane and isinstance(self.intake, LaneIntake)
            else None
        )
        # A checkpoint that is due after so many updates has to be begun at about that.
        counts_updates = options.checkpoint_every.endswith("u")
        self.poller: Final[Poller] = (
            zmq.Poller()
            if self._lane is None
            else LanePoller(self._lane, self.socket, BURST if counts_updates else MOST_IN_A_TURN)
        )
        self._unreading: list[int] = []  # workers that left no room for their answers

    def serve(self, desk: DataDesk) -> None:
        """Has the poller serve the socket by this desk's engine, if there is a lane."""
        if isinstance(self.poller, LanePoller):
            self.poller.desk = desk
            desk.rings = self

    def open_ring(
        self, worker: int, shard: int, segment: mmap.mmap, place: int, pipe: int, route: bytes,
        key: str,
    ) -> bytes:  # fmt: skip
        """Serves a worker's ring, in place of the one that it had.

        Args:
            worker: the rank.
            shard: whose ring it is, below RING_SHARDS.
            segment: the worker's memory.
            place: where its rings begin.
            pipe: the descriptor by which the worker wakes this process; the lane closes it.
            route: of the connection by which the worker has offered it.
            key: the worker's public key, or NOBODY.

        Returns:
            The route of what comes by the ring.
        """
        assert self._lane is not None
        return self._lane.open_ring(
            worker, segment, place=place, shard=shard, pipe=pipe, route=route, key=key
        )

    def close_ring(self, worker: int) -> None:
        """Serves a worker's ring no longer, if it has one."""
        assert self._lane is not None
        self._lane.close_ring(worker)

    def take(self, handle: Handle, until: Callable[[], bool]) -> None:
        """Hands over messages that have come, a few at a time, as other sockets wait.

        Call it when `poller` says that the socket can be read.

        Args:
            handle: takes one, and its sender's public key; says what it has shown of its sender.
            until: says before each whether it and all that follow are to wait.
        """
        intake = self.intake
        if self._lane is not None:
            assert isinstance(intake, LaneIntake)
            frames, user = intake.take_rare(self._lane)
            intake.judge(handle(frames, user))
            return
        for _ in range(BURST):
            if until() or not (frames := intake.receive()):
                return
            user = intake.user if self._knows_senders else NOBODY
            intake.judge(handle(frames, user))

    def send(self, route: bytes, header: bytes, payload: Payload, worker: int) -> None:
        """Sends an answer; notes its worker if that does not read.

        Args:
            route: to whom.
            header: packed.
            payload: the frame after it, if there is one.
            worker: whom the answer is for, if only that worker gets such an answer; otherwise 0,
                as of an `error`: any peer that writes a worker's rank into a header gets one.
        """
        if self._lane is not None and self._lane.send_by_ring(route, header):
            return
        if send(self.socket, route, header, payload):
            return
        if worker:
            # A peer that reads leaves room, since it has few requests in flight. This one is to be
            # evicted later: now, that would release further answers while these are being sent.
            self._unreading.append(worker)
        else:
            self.intake.close_unread(route)

    def take_unreading(self) -> list[int]:
        """Takes the workers whose answers could not be sent since the last call."""
        workers, self._unreading = self._unreading, []
        return workers if self._lane is None else [*workers, *self._lane.take_unreading()]
