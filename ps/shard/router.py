"""Sends and receives at the server, so that a peer that is gone or does not read delays nobody."""

from collections.abc import Callable
from typing import Final, TypeAlias

import zmq

from leash.ps.options.server import ServerOptions
from leash.ps.shard.identities import NOBODY
from leash.ps.wire.curve import Doorman
from leash.ps.wire.intake import Conduct, Frames, Intake, PeerLimits, open_intake
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    Payload,
    data_max_nbytes,
    data_queue,
    make_router,
)

BURST: Final = 16  # messages of a data socket in a row, before the control socket has its turn
Handle: TypeAlias = Callable[[Frames, str], Conduct]


def send(socket: zmq.Socket[bytes], route: bytes, header: bytes, payload: Payload) -> bool:
    """Sends a message to one peer; returns False if that peer does not read.

    A peer that is gone misses the message, which is no failure.
    """
    more = zmq.SNDMORE | zmq.DONTWAIT
    try:
        socket.send(route, more)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return True  # it asks again when it comes back, or is evicted
    if payload is None:
        socket.send(header, zmq.DONTWAIT)
        return True
    socket.send(header, more)
    # No code writes to an answer's memory once it is made, so ZeroMQ may read it where it lies.
    lies_still = isinstance(payload, zmq.Frame) or len(payload) >= COPY_BELOW_NBYTES
    socket.send(payload, zmq.DONTWAIT, copy=not lies_still)
    return True


class DataRouter:
    """The data socket of one shard."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], options: ServerOptions, host: str, port: int,
        doorman: Doorman | None = None,
    ) -> None:  # fmt: skip
        """Listens.

        Args:
            context: of the socket.
            options: of the server.
            host: where to listen.
            port: at which; 0 for any free one.
            doorman: lets in those who have a key; without one, everybody may come.

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
        self._unreading: list[int] = []  # workers that left no room for their answers

    def take(self, handle: Handle, until: Callable[[], bool]) -> None:
        """Hands over messages that have come, a few at a time, as other sockets wait.

        Args:
            handle: takes one, and its sender's public key; says what it has shown of its sender.
            until: says before each whether it and all that follow are to wait.
        """
        intake = self.intake
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
        return workers
