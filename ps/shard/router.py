"""The server's end of ZeroMQ: a peer that is gone, or does not read, holds nobody up."""

from collections.abc import Callable
from typing import Final

import zmq

from leash.ps.options.commands import ServerOptions
from leash.ps.wire.frames import encode
from leash.ps.wire.messages import Message, Ok, Params
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    Payload,
    bind,
    data_max_nbytes,
    data_queue,
    has_come,
    make_router,
    receive,
)

BURST: Final = 16  # messages of a data socket, then the control socket is looked at


def send(socket: zmq.Socket[bytes], route: bytes, message: Message, payload: Payload) -> bool:
    """Sends to one peer; False if it does not read. A peer that is gone misses it."""
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
        socket.send(encode(message), zmq.DONTWAIT)
        return True
    socket.send(encode(message), more)
    # Nobody writes to the memory of an answer once it is made, so ZeroMQ may read it where it lies.
    lies_still = isinstance(payload, zmq.Frame) or len(payload) >= COPY_BELOW_NBYTES
    socket.send(payload, zmq.DONTWAIT, copy=not lies_still)
    return True


class DataRouter:
    """The data socket of one shard."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], options: ServerOptions, host: str, port: int
    ) -> None:
        """Listens. Raises UsageError: the port is taken, or the address not one of this host."""
        max_nbytes = data_max_nbytes(options.chunk_nbytes)
        self.socket: Final = make_router(context, data_queue(options.window), max_nbytes)
        self.port: Final = bind(self.socket, host, port)
        self._unreading: list[Message] = []  # answers that their peers left no room for

    def take(self, handle: Callable[[list[zmq.Frame]], None]) -> None:
        """Hands over the messages that have come; a few at once, so that others have their turn."""
        for _ in range(BURST):
            if not has_come(self.socket):
                return
            handle(receive(self.socket))

    def send(self, route: bytes, message: Message, payload: Payload) -> None:
        if not send(self.socket, route, message, payload):
            # With credits no queue is full: this peer sends, and does not read. Not now: to evict
            # it would release further answers in the middle of those that are being sent.
            self._unreading.append(message)

    def take_unreading(self) -> list[int]:
        """The workers, since this was asked last, whose answers could not be sent.

        An `error` may be the answer to anybody who writes a worker's rank into a header; only the
        worker itself gets anything else.
        """
        messages, self._unreading = self._unreading, []
        return [m.worker for m in messages if isinstance(m, (Params, Ok))]
