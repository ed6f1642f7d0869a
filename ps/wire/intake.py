"""Takes the messages of a server's socket, and limits what a peer may cost.

libzmq limits the size of a frame, and how many whole messages of a peer wait. It limits neither how
many frames a message has, nor how much has come of one without an end, nor how many connections
there are. `leash.ps._core.Intake` does: a thread of its own looks at the connections, and closes
those that cost too much. It uses the libzmq that pyzmq has loaded; where its functions cannot be
found, `PlainIntake` takes the messages, and limits the frames of a message alone.
"""

import os
import resource
import socket
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Any, Final, Protocol, TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

from leash.ps import _core
from leash.ps.wire.frames import MAX_HEADER_NBYTES
from leash.ps.wire.sockets import bind, has_come, library, why_plain

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
# Route and header, and the payload if there is one.
Frames: TypeAlias = list[Any]  # of bytes, bytes, and zmq.Frame

CONNECTIONS_OF_STRANGERS: Final = 128  # connections that a socket has beside those of members
CONNECTIONS_OF_A_MEMBER: Final = 4  # so many at least, with those that it has just lost
MOST_SURPLUS_FRAMES: Final = 1024  # csrc/lane/inbox.h has the same number
# Of a message, what is neither header nor payload: the framing, and what encryption adds.
FRAMING_NBYTES: Final = 64 * 1024
OWN_FILES: Final = 256  # descriptors that a process has for other things than connections
HANDSHAKES: Final = 256  # that failed and are taken in a row, before messages have their turn
# A handshake that was cut off, as in an outage, is no refusal.
REFUSED: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
SURPLUS: Final = b""  # stands for all frames beyond those that a message may have

# What is said of a connection that was closed, by its reason.
WHY_CLOSED: Final = {
    "unfinished": "more has come of its message than any message has, and no end",
    "backlog": "it has sent more than a worker sends before it has an answer",
    "frames": f"a message of it had more than {MOST_SURPLUS_FRAMES} frames too many",
    "refused": "too many of its messages had to be refused",
    "failed": "the server itself failed at a message of it",
    "unread": "it does not read its answers",
    "crowd": "there were too many connections",
}


class Conduct(Enum):
    """What a message has shown of its sender."""

    MEMBER = "member"  # it takes part in the run
    STRANGER = "stranger"  # it has asked for what anybody may ask for
    WRONG = "wrong"  # its message was refused
    FATAL = "fatal"  # the server itself failed at it


@dataclass(frozen=True)
class PeerLimits:
    """What the peers of a socket may cost. Bytes are those that travel.

    Attributes:
        connections: how many there may be.
        message_nbytes: of the longest message.
        backlog_nbytes: sent by one peer while the server takes nothing.
        unfinished_nbytes: of messages whose end has not come, over all connections.
    """

    connections: int
    message_nbytes: int
    backlog_nbytes: int
    unfinished_nbytes: int

    @classmethod
    def of(cls, members: int, frame_nbytes: int, queue: int) -> "PeerLimits":
        """Gives the limits of a socket.

        Args:
            members: how many processes take part.
            frame_nbytes: of its largest frame.
            queue: how many messages of a peer may wait.
        """
        message_nbytes = frame_nbytes + MAX_HEADER_NBYTES + FRAMING_NBYTES
        return cls(
            connections=min(
                CONNECTIONS_OF_STRANGERS + CONNECTIONS_OF_A_MEMBER * members, _affordable()
            ),
            message_nbytes=message_nbytes,
            backlog_nbytes=(queue + 2) * message_nbytes,
            unfinished_nbytes=(members + 4) * message_nbytes,
        )


class Intake(Protocol):
    """Takes the messages of one socket. For one thread, which uses the socket."""

    port: int  # where the socket listens

    @property
    def fd(self) -> int | None:
        """A descriptor to poll, at which `attend` is to be called; None if there is none."""
        ...

    @property
    def user(self) -> str:
        """The name under which ZAP let in the sender of the newest message; empty without."""
        ...

    def receive(self) -> Frames:
        """Takes the next message; [] if none has come."""
        ...

    def judge(self, conduct: Conduct) -> None:
        """Notes what the newest message has shown of its sender, which may cost its connection."""
        ...

    def close_unread(self, route: bytes) -> None:
        """Has the connection with this route closed, since its peer does not read."""
        ...

    def is_connected(self, route: bytes) -> bool:
        """Whether a peer with this route, of which a message has come, is known to be there."""
        ...

    def attend(self) -> None:
        """Does what `fd` asks for."""
        ...

    def take_refused(self) -> int:
        """Takes how many connections ended in the handshake since the last call."""
        ...

    def take_closed(self) -> tuple[Counter[str], list[tuple[str, str]]]:
        """Takes how many connections were closed since the last call, by reason.

        Beside that it gives some of them, with their reason and host.
        """
        ...

    def close(self) -> None:
        """Lets go of the socket, which must be before its context ends. Again does nothing."""
        ...


def open_intake(
    context: Context, router: zmq.Socket[bytes], host: str, port: int, limits: PeerLimits
) -> Intake:
    """Binds a ROUTER socket to tcp://host:port, and takes its messages.

    Args:
        context: of the socket.
        router: to be bound.
        host: an address of this host, a name of one, or * for all; IPv6 between brackets.
        port: 0 for any free one.
        limits: what its peers may cost.

    Raises:
        UsageError: the port is taken, or the address is not one of this host.
    """
    if why_plain() is not None:
        return PlainIntake(router, host, port)
    return LaneIntake(context, router, host, port, limits)


def _affordable() -> int:
    """How many connections each of two sockets may have in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # what the system allows is less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return max(16, (soft - OWN_FILES) // 2) if soft >= 0 else sys.maxsize


class LaneIntake:
    """Takes messages by the functions of libzmq itself, which look at the connections too."""

    _numbers: Final = count()  # of the monitors of this process

    def __init__(
        self, context: Context, router: zmq.Socket[bytes], host: str, port: int, limits: PeerLimits
    ) -> None:
        """Does what `open_intake` says."""
        monitor = f"inproc://leash-intake-{next(self._numbers)}"
        router.monitor(monitor, zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | REFUSED)
        # In this order the thread ends before the context does, where nobody has called `close`.
        self._core: Final = _core.Intake(
            library(), context.underlying, router.underlying, monitor,
            connections=limits.connections, message_nbytes=limits.message_nbytes,
            backlog_nbytes=limits.backlog_nbytes, unfinished_nbytes=limits.unfinished_nbytes,
            header_nbytes=MAX_HEADER_NBYTES,
        )  # fmt: skip
        self._router: Final = router
        self._knows_sender = self._is_by_ring = False
        try:
            self.port = bind(router, host, port)
            self._core.begin(self.port)
        except BaseException:
            self._core.close()
            raise

    @property
    def fd(self) -> int | None:
        """A descriptor to poll, at which `attend` is to be called."""
        return self._core.fd

    @property
    def user(self) -> str:
        """The name under which ZAP let in the sender of the newest message; empty without."""
        return self._core.user

    def receive(self) -> Frames:
        """Takes the next message; [] if none has come."""
        taken = self._core.receive()
        if taken is None:
            return []
        route, header, has_payload, self._knows_sender = taken
        if not has_payload:
            return [route, header]
        payload = self._router.recv(copy=False)
        if not payload.more:
            return [route, header, payload]
        self._core.drain()
        return [route, header, payload, SURPLUS]

    def lane(self, *, knows_senders: bool, burst: int) -> _core.ShardLane:
        """Makes a lane of the socket, which takes its messages from then on.

        Args:
            knows_senders: whether the socket lets in those alone who have a key.
            burst: how many messages it takes in a row before other sources have their turn.
        """
        return _core.ShardLane(self._core, knows_senders=knows_senders, burst=burst)

    def echo(self) -> None:
        """Sends every message back as it came, until a signal raises; for benchmarks."""
        _core.serve_echo(self._core)

    def take_rare(self, lane: _core.ShardLane) -> tuple[Frames, str]:
        """Takes the message that a lane of the socket has left, and the key of its sender.

        Nothing is to be judged of one that came by a ring: its sender is a member.
        """
        route, header, payload, has_surplus, user, self._knows_sender, self._is_by_ring = (
            lane.take_rare()
        )
        frames = [route, header] if payload is None else [route, header, payload]
        return [*frames, SURPLUS] if has_surplus else frames, user

    def judge(self, conduct: Conduct) -> None:
        """Notes what the newest message has shown of its sender, which may cost its connection."""
        if self._is_by_ring:
            return
        match conduct:
            case Conduct.MEMBER:
                if not self._knows_sender:
                    self._core.vouch()
            case Conduct.WRONG:
                self._core.refuse()
            case Conduct.FATAL:
                self._core.condemn_failed()

    def close_unread(self, route: bytes) -> None:
        """Has the connection with this route closed, since its peer does not read."""
        self._core.condemn_unread(route)

    def is_connected(self, route: bytes) -> bool:
        """Whether a peer with this route, of which a message has come, is known to be there."""
        return self._core.is_connected(route)

    def attend(self) -> None:
        """Answers the thread that looks at the connections."""
        self._core.attend()

    def take_refused(self) -> int:
        """Takes how many connections ended in the handshake since the last call."""
        return self._core.take_refused()

    def take_closed(self) -> tuple[Counter[str], list[tuple[str, str]]]:
        """Takes how many connections were closed since the last call, by reason; and some."""
        counts, examples = self._core.take_closed()
        return Counter(dict(counts)), examples

    def close(self) -> None:
        """Ends the thread."""
        # First, while it reads: libzmq's own thread would wait for ever for a reader that has gone.
        if not self._router.closed:
            self._router.disable_monitor()
        self._core.close()


class PlainIntake:
    """Takes messages by pyzmq. It limits the frames of a message, and nothing else."""

    fd: Final = None

    def __init__(self, router: zmq.Socket[bytes], host: str, port: int) -> None:
        """Does what `open_intake` says."""
        self._router: Final = router
        self._monitor: Final = router.get_monitor_socket(REFUSED)
        try:
            self.port = bind(router, host, port)
        except BaseException:
            self.close()
            raise
        self._route: zmq.Frame | None = None  # of the newest message
        self._closed: Counter[str] = Counter()
        self._examples: list[tuple[str, str]] = []

    @property
    def user(self) -> str:
        """The name under which ZAP let in the sender of the newest message; empty without."""
        assert self._route is not None
        try:
            return str(self._route.get("User-Id"))
        except zmq.ZMQError:
            return ""

    def receive(self) -> Frames:
        """Takes the next message; [] if none has come."""
        if not has_come(self._router):
            return []
        self._route = self._router.recv(copy=False)
        header = self._router.recv(copy=False)
        frames: Frames = [self._route.bytes, header.bytes]
        if not header.more:
            return frames
        payload = self._router.recv(copy=False)
        frames.append(payload)
        if payload.more:
            frames.append(SURPLUS)
            self._drain()
        return frames

    def judge(self, conduct: Conduct) -> None:
        """Closes the connection of a sender whose message the server has failed at."""
        if conduct is Conduct.FATAL:
            self._end("failed")

    def close_unread(self, route: bytes) -> None:
        """Closes the connection with this route, if it has sent the newest message."""
        if self._route is not None and self._route.bytes == route:
            self._end("unread")

    def is_connected(self, _: bytes) -> bool:
        """False: it does not look at connections."""
        return False

    def attend(self) -> None:
        """Does nothing: nothing is asked."""

    def take_refused(self) -> int:
        """Takes how many connections ended in the handshake since the last call."""
        for refused in range(HANDSHAKES):
            if not has_come(self._monitor):
                return refused
            recv_monitor_message(self._monitor)
        return HANDSHAKES

    def take_closed(self) -> tuple[Counter[str], list[tuple[str, str]]]:
        """Takes how many connections were closed since the last call, by reason; and some."""
        closed = self._closed, self._examples
        self._closed, self._examples = Counter(), []
        return closed

    def close(self) -> None:
        """Ends the monitor, and lets go of it."""
        if not self._monitor.closed:
            self._router.disable_monitor()
            self._monitor.close(linger=0)

    def _drain(self) -> None:
        for surplus in count(1):
            if not self._router.recv(copy=False).more:
                return
            if surplus == MOST_SURPLUS_FRAMES:
                self._end("frames")  # what has come is still to be dropped, and no more comes

    def _end(self, reason: str) -> None:
        """Ends the connection of the newest message, if it is provably that."""
        assert self._route is not None
        with suppress(OSError, zmq.ZMQError):
            fd, host = self._route.get(zmq.SRCFD), self._route.get("Peer-Address")
            with socket.socket(fileno=os.dup(int(fd))) as connection:
                if connection.getpeername()[0] == host and connection.getsockname()[1] == self.port:
                    connection.shutdown(socket.SHUT_RDWR)
                    self._closed[reason] += 1
                    self._examples.append((reason, str(host)))
