"""A slow network between the workers and a server: a process that relays their TCP, and paces it.

::

    worker ─▸ 127.0.0.2:PORT, the relay ─▸ 127.0.0.1:PORT, the server

The relay listens at the server's own ports on another address of the loopback. A worker that is
told that address finds all of the server's ports there, so that no system has to know of it.

All connections of a server share its link, which carries so many bytes a second each way, as that
of a host does; its shards are on the one host. A piece leaves when the link has had the time to
carry it. The relay's buffers are small and fixed: so a sender is held back as soon as the link is
behind. Beside that time, bytes take two wake-ups of the relay's threads. It computes on the
processors that the workers and the server use; at 1 Gbit/s that is little.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from leash.bench.harness.crew import server_process
from leash.ps.errors import LeashError

SERVER_HOST: Final = "127.0.0.1"
RELAY_HOST: Final = "127.0.0.2"
PIECE_NBYTES: Final = 1 << 16
BUFFER_NBYTES: Final = 1 << 18  # of a connection's socket, each way
LATE_S: Final = 5e-3  # what a busy link catches up of the time by which its thread woke too late
SHORTEST_S: Final = 5e-5  # to wait for; what is left out is waited for with the next piece


def through_relay(address: str) -> str:
    """The address at which a relay stands for the server of this address.

    Raises:
        LeashError: the server has no IPv4 address, of which a loopback has more than one.
    """
    server, relay = f"//{SERVER_HOST}:", f"//{RELAY_HOST}:"
    if server not in address:
        raise LeashError(f"--bandwidth-gbit: needs IPv4, but the server listens at {address}")
    return address.replace(server, relay, 1)


@contextmanager
def slow_network(ports: Sequence[int], bandwidth_gbit: float) -> Iterator[None]:
    """Relays to these ports of the server, in a process of its own.

    Args:
        ports: of the server, and so of the relay.
        bandwidth_gbit: of the server's link, each way, in 10⁹ bits a second.

    Raises:
        LeashError: this machine has no second address of the loopback, or a port is taken there.
    """
    with server_process(_serve, tuple(ports), bandwidth_gbit * 1e9 / 8) as failure:
        if failure:
            raise LeashError(f"--bandwidth-gbit: {failure}; take Linux, or try again")
        yield


def _serve(ports: Sequence[int], bytes_per_s: float, tell: Callable[[str], None]) -> None:
    """Relays for ever; tells first why it cannot, or nothing."""
    up, down = Link(bytes_per_s), Link(bytes_per_s)
    with ExitStack() as stack:
        try:
            listeners = [stack.enter_context(_listen(port)) for port in ports]
        except OSError as error:
            tell(f"cannot listen at {RELAY_HOST}: {error.strerror}")
            return
        for listener, port in zip(listeners, ports, strict=True):
            threading.Thread(target=_accept, args=(listener, port, up, down), daemon=True).start()
        tell("")
        threading.Event().wait()


def _listen(port: int) -> socket.socket:
    listener = socket.create_server((RELAY_HOST, port))
    _bound_buffers(listener)  # which those that it accepts inherit
    return listener


def _bound_buffers(end: socket.socket) -> None:
    """Fixes the size of a socket's buffers, which would grow by themselves to several MB."""
    for direction in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, direction, BUFFER_NBYTES)


def _accept(listener: socket.socket, port: int, up: "Link", down: "Link") -> None:
    while True:
        near, _ = listener.accept()
        far = socket.socket()
        _bound_buffers(far)
        try:
            far.connect((SERVER_HOST, port))
        except OSError:  # the server has ended
            far.close()
            near.close()
            continue
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink, link in ((near, far, up), (far, near, down)):
            threading.Thread(target=carry, args=(source, sink, link), daemon=True).start()


def carry(source: socket.socket, sink: socket.socket, link: "Link") -> None:
    """Carries bytes from one socket to the other, over a link, until the source has ended."""
    piece = memoryview(bytearray(PIECE_NBYTES))
    with suppress(OSError):  # one of the two is gone
        while True:
            try:
                nbytes, was_idle = source.recv_into(piece, flags=socket.MSG_DONTWAIT), False
            except BlockingIOError:
                nbytes, was_idle = source.recv_into(piece), True
            if nbytes == 0:
                break
            link.carry(nbytes, was_idle=was_idle)
            sink.sendall(piece[:nbytes])
    with suppress(OSError):  # the sink has ended first
        sink.shutdown(socket.SHUT_WR)


class Link:
    """One direction of a link, which connections share: it carries one piece after the other."""

    def __init__(
        self, bytes_per_s: float, now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """A link that is free.

        Args:
            bytes_per_s: what it carries.
            now: tells the time, in seconds.
            sleep: waits for so many seconds, or somewhat longer.
        """
        self._bytes_per_s: Final = bytes_per_s
        self._now: Final = now
        self._sleep: Final = sleep
        self._lock: Final = threading.Lock()
        self._free_s = now()  # when it has carried all that it was given

    def carry(self, nbytes: int, *, was_idle: bool) -> None:
        """Returns when the link has carried a piece; any thread may call this.

        Args:
            nbytes: of the piece.
            was_idle: whether the piece had to be waited for. One that was there already may have
                come while the thread was still asleep; then the link has begun with it earlier.
        """
        with self._lock:
            now_s = self._now()
            begins_s = max(self._free_s, now_s if was_idle else now_s - LATE_S)
            self._free_s = begins_s + nbytes / self._bytes_per_s
            wait_s = self._free_s - now_s
        if wait_s >= SHORTEST_S:
            self._sleep(wait_s)
