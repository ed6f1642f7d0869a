"""How both sides set up their sockets, with the reasons."""

from typing import Final, TypeAlias

import zmq

from leash.ps.errors import UsageError
from leash.ps.wire.frames import MAX_HEADER_NBYTES
from leash.ps.wire.layout import MAX_LAYOUT_NBYTES

CONTROL_MAX_NBYTES: Final = MAX_LAYOUT_NBYTES + MAX_HEADER_NBYTES
CONTROL_QUEUE: Final = 64  # messages a peer may leave unread
LINGER_MS: Final = 1000
# Up to here a copy costs less than to be told, by a thread, when ZeroMQ has read memory of ours.
COPY_BELOW_NBYTES: Final = 256 * 1024


def data_max_nbytes(chunk_nbytes: int) -> int:
    """The largest frame of a data socket: a chunk, or a header."""
    return chunk_nbytes + MAX_HEADER_NBYTES


def data_queue(window: int) -> int:
    """Messages that a queue of a data socket may hold; high-water marks count messages."""
    return 2 * window + 16


def make_router(
    context: zmq.Context[zmq.Socket[bytes]], queue: int, max_nbytes: int
) -> zmq.Socket[bytes]:
    """A ROUTER that never blocks: to send to a peer that is gone, or does not read, is an error."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _limit(socket, queue, max_nbytes)
    return socket


def make_dealer(
    context: zmq.Context[zmq.Socket[bytes]], queue: int, max_nbytes: int
) -> zmq.Socket[bytes]:
    """A DEALER that sends only over a connection that stands, and finds a lost server again."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    _limit(socket, queue, max_nbytes)
    return socket


def _limit(socket: zmq.Socket[bytes], queue: int, max_nbytes: int) -> None:
    socket.setsockopt(zmq.SNDHWM, queue)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.MAXMSGSIZE, max_nbytes)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    # Not ZeroMQ's own heartbeats: they time out in the middle of a large transfer.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)


def receive(socket: zmq.Socket[bytes], flags: int = zmq.DONTWAIT) -> list[zmq.Frame]:
    """The frames of the next message, in ZeroMQ's own memory; none if none has come.

    Args:
        flags: 0 waits for a message, as long as the socket's RCVTIMEO says.
    """
    try:
        frames = [socket.recv(flags, copy=False)]
    except zmq.Again:
        return []
    while frames[-1].more:
        frames.append(socket.recv(copy=False))
    return frames


def parts(frames: list[zmq.Frame]) -> tuple[bytes, bytes, list[zmq.Frame]]:
    """Route, header, and what came after it; an empty header where there was none."""
    header = frames[1].bytes if len(frames) > 1 else b""
    return frames[0].bytes, header, frames[2:]


def has_come(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be received at once. Costs less than to try, and to catch the error."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return bool(events & zmq.POLLIN)


def bind(socket: zmq.Socket[bytes], host: str, port: int) -> int:
    """Binds to tcp://host:port, port 0 being any free one; returns the port.

    Raises:
        UsageError: the port is taken, or the address is not one of this host.
    """
    address = f"tcp://{host}:{port or '*'}"
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            mend = f"port {port} is taken; choose another with --bind tcp://{host}:PORT, 0 for any"
        else:
            mend = f"{error}; give an address of this host, such as tcp://0.0.0.0:{port}"
        raise UsageError(f"cannot listen at {address}: {mend}") from error
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return int(endpoint.rstrip(b"\0").rpartition(b":")[2])


Payload: TypeAlias = zmq.Frame | memoryview | bytearray | bytes | None
