import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest

from leash.bench.harness.slow_network import (
    BUFFER_NBYTES,
    LATE_S,
    PIECE_NBYTES,
    RELAY_HOST,
    Link,
    slow_network,
    through_relay,
)
from leash.ps.errors import LeashError

WAIT_S = 30.0


class Clock:
    """Time that passes when somebody sleeps, and that wakes each sleeper too late."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 50.0
        self.late_s = late_s

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + self.late_s


def link_of(clock: Clock, bytes_per_s: float) -> Link:
    return Link(bytes_per_s, clock.now, clock.sleep)


# The link alone.


@pytest.mark.parametrize("late_s", [0.0, 1e-4, 0.9 * LATE_S])
@pytest.mark.parametrize("nbytes", [100, 6_000, PIECE_NBYTES])
def test_a_busy_link_carries_its_rate_though_threads_wake_late(late_s: float, nbytes: int) -> None:
    clock = Clock(late_s)
    link, pieces = link_of(clock, 125e6), 40_000_000 // nbytes
    for number in range(pieces):
        link.carry(nbytes, was_idle=number == 0)
    assert clock.now_s - 50.0 == pytest.approx(pieces * nbytes / 125e6, abs=2 * LATE_S)


@pytest.mark.parametrize("pause_s", [1.0, 60.0])
def test_an_idle_link_saves_up_nothing(pause_s: float) -> None:
    clock = Clock()
    link = link_of(clock, 1e6)
    for _ in range(3):
        clock.now_s += pause_s
        began_s = clock.now_s
        link.carry(1000, was_idle=True)
        assert clock.now_s - began_s == pytest.approx(1e-3)


def test_a_link_catches_up_no_more_than_a_thread_may_be_late() -> None:
    clock = Clock()
    link = link_of(clock, 1e6)
    clock.now_s += 10.0
    began_s = clock.now_s
    for _ in range(20):
        link.carry(1000, was_idle=False)
    assert clock.now_s - began_s == pytest.approx(0.02 - LATE_S)


def test_small_pieces_are_waited_for_with_a_later_one() -> None:
    clock = Clock()
    link = link_of(clock, 1e6)
    for _ in range(49):
        link.carry(1, was_idle=True)
    assert clock.now_s == 50.0
    link.carry(1, was_idle=True)
    assert clock.now_s == pytest.approx(50.0 + 50e-6)


# With sockets. A busy machine makes a link slower, never faster: only that is compared.


def serve_once(listener: socket.socket, connections: int, *, echoes: bool) -> None:
    """Reads all connections to their ends; sends all of it back, or how much it was."""

    def serve(peer: socket.socket) -> None:
        with peer:
            received = bytearray()
            while data := peer.recv(1 << 16):
                received += data
            peer.sendall(bytes(received) if echoes else str(len(received)).encode())

    for _ in range(connections):
        peer, _ = listener.accept()
        threading.Thread(target=serve, args=(peer,), daemon=True).start()


def connect(port: int) -> socket.socket:
    return socket.create_connection((RELAY_HOST, port), WAIT_S)


def read_all(peer: socket.socket) -> bytes:
    received = bytearray()
    while data := peer.recv(1 << 16):
        received += data
    return bytes(received)


def send_until_held_back(peer: socket.socket, nbytes: int) -> int:
    """Sends as much as is taken, of so many bytes; gives how much that is."""
    sent = 0
    with suppress(TimeoutError):
        while sent < nbytes:
            sent += peer.send(bytes(PIECE_NBYTES))
    return sent


@pytest.mark.parametrize("echoes", [True, False])
def test_all_bytes_come_in_their_order_and_no_faster_than_the_link(echoes: bool) -> None:
    contents = [bytes([number]) * 100_000 + bytes(range(256)) * 1000 for number in (1, 2)]
    nbytes = sum(map(len, contents))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=serve_once, args=(listener, 2), kwargs={"echoes": echoes})
        server.start()
        with ExitStack() as stack:
            stack.enter_context(slow_network([port], 0.04))
            peers = [stack.enter_context(closing(connect(port))) for _ in contents]
            began_s = time.monotonic()
            for peer, content in zip(peers, contents, strict=True):
                peer.sendall(content)
                peer.shutdown(socket.SHUT_WR)
            answers = [read_all(peer) for peer in peers]
            took_s = time.monotonic() - began_s
        server.join(WAIT_S)
    assert answers == (contents if echoes else [str(len(c)).encode() for c in contents])
    # Both connections share a direction's 5 MB/s; the first piece of each may be on its way.
    assert took_s > (nbytes - 2 * PIECE_NBYTES) / 5e6


def test_a_sender_is_held_back_where_nobody_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_NBYTES)
        port = listener.getsockname()[1]
        with slow_network([port], 100.0), closing(connect(port)) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_NBYTES)
            far, _ = listener.accept()
            peer.settimeout(0.5)  # nothing is taken for so long
            with far:
                sent = send_until_held_back(peer, 100 * BUFFER_NBYTES)
    # Linux doubles what it is asked for, in four buffers.
    assert 0 < sent <= 2 * 4 * BUFFER_NBYTES + 2 * PIECE_NBYTES


def test_a_server_that_has_ended_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with slow_network([port], 1.0), closing(connect(port)) as peer:
        assert peer.recv(1) == b""


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server((RELAY_HOST, 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(LeashError, match=r"--bandwidth-gbit: cannot listen at 127.0.0.2: .*; "),
            slow_network([port], 1.0),
        ):
            raise AssertionError("it listens there")


def test_workers_are_told_the_relay_in_place_of_the_server() -> None:
    assert through_relay("tcp://127.0.0.1:80") == "tcp://127.0.0.2:80"
    assert through_relay("tcp://127.0.0.1:80 /keys") == "tcp://127.0.0.2:80 /keys"
    with pytest.raises(LeashError, match=r"needs IPv4, but the server listens at tcp://\[::1\]:80"):
        through_relay("tcp://[::1]:80")
