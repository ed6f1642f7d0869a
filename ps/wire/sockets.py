"""Sets up the sockets of both sides, and says why they are set up so."""

import sys
from typing import Final, TypeAlias

import zmq
import zmq.backend

from leash.ps import _core
from leash.ps.errors import UsageError
from leash.ps.wire import hosts
from leash.ps.wire.curve import Doorman, secure_client
from leash.ps.wire.frames import MAX_HEADER_NBYTES
from leash.ps.wire.keys import ClientKey
from leash.ps.wire.layout import MAX_LAYOUT_NBYTES

CONTROL_MAX_NBYTES: Final = MAX_LAYOUT_NBYTES + MAX_HEADER_NBYTES
CONTROL_QUEUE: Final = 64  # messages that a peer may leave unread
CONTROL_INCOMING: Final = 8  # messages of a peer that wait at the server
# A peer that connects to the server says soon who it is, or its connection is closed.
GREETING_MS: Final = 10_000
LINGER_MS: Final = 1000
CONNECT_MS: Final = 2000  # an attempt to connect that takes longer is begun anew
HANDSHAKE_MS: Final = 5000  # likewise, where a host answers and its server does not
# Below it, a copy costs less than the thread that tells us when ZeroMQ has read our memory.
COPY_BELOW_NBYTES: Final = 256 * 1024


def data_max_nbytes(chunk_nbytes: int) -> int:
    """The size of the largest frame on a data socket."""
    return chunk_nbytes + MAX_HEADER_NBYTES


def data_queue(window: int) -> int:
    """How many messages a queue of a data socket may hold, as its high-water mark."""
    return 2 * window + 16


def make_router(
    context: zmq.Context[zmq.Socket[bytes]],
    queue: int,
    max_nbytes: int,
    incoming: int = 0,
    doorman: Doorman | None = None,
) -> zmq.Socket[bytes]:
    """Makes a ROUTER, which raises an error where a peer is gone or does not read.

    Args:
        context: of the socket.
        queue: how many messages wait for a peer to read them.
        max_nbytes: of a frame.
        incoming: how many messages of a peer wait; 0 for as many as of the other kind.
        doorman: lets in those who have a key; without one, everybody may come.
    """
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, GREETING_MS)
    _limit(socket, queue, max_nbytes)
    socket.setsockopt(zmq.RCVHWM, incoming or queue)
    if doorman is not None:
        doorman.guard(socket)
    return socket


def make_dealer(
    context: zmq.Context[zmq.Socket[bytes]], queue: int, max_nbytes: int,
    key: ClientKey | None = None,
) -> zmq.Socket[bytes]:  # fmt: skip
    """Makes a DEALER, which sends only over a live connection, and reconnects to a lost server.

    Args:
        key: for a server that has keys.
    """
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    # In an outage the system would try again after 1, 2, 4, ... seconds, and so long after its end.
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _limit(socket, queue, max_nbytes)
    if key is not None:
        secure_client(socket, key)
    return socket


def _limit(socket: zmq.Socket[bytes], queue: int, max_nbytes: int) -> None:
    socket.setsockopt(zmq.SNDHWM, queue)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.MAXMSGSIZE, max_nbytes)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    # ZeroMQ's own heartbeats time out in the middle of a large transfer, so TCP's are used.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)


def receive(socket: zmq.Socket[bytes], flags: int = zmq.DONTWAIT) -> list[zmq.Frame]:
    """Takes the next message as frames, in ZeroMQ's own memory; [] if none has come.

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


def send_first(socket: zmq.Socket[bytes], frame: bytes, flags: int = 0) -> bool:
    """Sends the first frame of a message, or the only one, and never waits.

    A socket hears of what its peer has taken only when it looks for news. Its calls leave that out
    where another one was made less than a millisecond ago, so a queue that counts as full has room
    more often than not.

    Args:
        socket: takes it.
        frame: is copied.
        flags: zmq.SNDMORE if others follow, which the socket always takes.

    Returns:
        False if it is not sent: the peer leaves no room, or there is no connection.
    """
    for looks_first in (False, True):
        if looks_first:
            socket.getsockopt(zmq.EVENTS)  # to ask for them is to look for news
        try:
            socket.send(frame, zmq.DONTWAIT | flags)
        except zmq.Again:
            continue
        return True
    return False


def has_come(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be received at once. Cheaper than to try and to catch the error."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return bool(events & zmq.POLLIN)


def bind(socket: zmq.Socket[bytes], host: str, port: int) -> int:
    """Binds a socket to tcp://host:port, port 0 being any free one; returns the port.

    Args:
        host: an address of this host, a name of one, or * for all; IPv6 between brackets.

    Raises:
        UsageError: the port is taken, or the address is not one of this host.
    """
    address = f"tcp://{host}:{port or '*'}"
    try:
        place = hosts.to_bind(host)
        socket.setsockopt(zmq.IPV6, int(place.startswith("[")))
        socket.bind(f"tcp://{place}:{port or '*'}")
    except (OSError, zmq.ZMQError) as error:
        if error.errno == zmq.EADDRINUSE:
            mend = f"port {port} is taken; choose another with --bind tcp://{host}:PORT, 0 for any"
        else:
            mend = f"{error.strerror}; give an address of this host, such as tcp://0.0.0.0:PORT"
        raise UsageError(f"cannot listen at {address}: {mend}") from error
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return int(endpoint.rstrip(b"\0").rpartition(b":")[2])


def host_and_port(address: str) -> tuple[str, int]:
    """Splits tcp://HOST:PORT; an IPv6 address keeps its brackets.

    Raises:
        UsageError: it is no such address.
    """
    scheme, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal():
        raise UsageError(f"address {address!r}: write it as tcp://HOST:PORT")
    return host, int(port)


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Begins to connect a socket to tcp://HOST:PORT, over IPv4 or IPv6 as the host needs it.

    Raises:
        UsageError: it is no such address.
    """
    host, port = host_and_port(address)
    try:
        socket.setsockopt(zmq.IPV6, int(hosts.needs_ipv6(host, port)))
        socket.connect(address)
    except zmq.ZMQError as error:
        raise UsageError(
            f"address {address!r}: {error.strerror}; write it as tcp://HOST:PORT"
        ) from error


Payload: TypeAlias = zmq.Frame | memoryview | bytearray | bytes | None


# The libzmq that pyzmq has loaded, whose functions the lanes in C++ use.


def why_plain() -> str | None:
    """Why the functions of libzmq cannot be used; None if they can."""
    try:
        _core.find_libzmq(library())
    except (RuntimeError, OSError) as error:
        return str(error)
    return None


def library() -> str:
    """The path of pyzmq's shared object, which has loaded libzmq."""
    backend = sys.modules[zmq.backend.Socket.__module__]
    return getattr(backend, "__file__", None) or ""
