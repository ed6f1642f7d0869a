"""Peers that mean a server no good: raw connections that speak ZMTP 3.0 as far as it serves them.

    python -m leash.bench.harness.attackers KIND tcp://HOST:PORT [CONNECTIONS]

Each kind is one thing that a server's protocol does not forbid by itself, such as a message without
an end. An attacker goes on until it is killed, and connects again whenever its connection is
closed. A kind may be aimed at a `sink`, which reads and answers nothing: so its own use of the
processor can be told from what it does to a server.
"""

import contextlib
import itertools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

import msgpack

from leash.ps.options.addresses import split_address

# The greeting of ZMTP 3.0 with the mechanism NULL, and the command READY of a DEALER.
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_PROPERTY: Final = b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
READY: Final = b"\x04" + bytes([6 + len(_PROPERTY)]) + b"\x05READY" + _PROPERTY

MORE, LONG = 1, 2  # flags of a frame
PATIENCE_S: Final = 2.0  # an attacker that is not served for so long connects again
CONNECTIONS: Final = 4


def frame(content: bytes, *, more: bool = False) -> bytes:
    """A frame as ZMTP 3.0 writes it."""
    flags = MORE * more
    if len(content) < 256:
        return bytes([flags, len(content)]) + content
    return bytes([flags | LONG]) + len(content).to_bytes(8, "big") + content


def connected(host: str, port: int, *, greets: bool = True) -> socket.socket:
    """A connection to a server; with a greeting it is one on which messages may follow."""
    peer = socket.create_connection((host.strip("[]"), port), PATIENCE_S)
    try:
        if greets:
            peer.sendall(GREETING + READY)
            # libzmq takes no message before it has sent its own command READY.
            _, nbytes = _read(peer, len(GREETING) + 2)[-2:]
            _read(peer, nbytes)
    except BaseException:
        peer.close()
        raise
    return peer


def _read(peer: socket.socket, nbytes: int) -> bytes:
    got = b""
    while len(got) < nbytes:
        if not (more := peer.recv(nbytes - len(got))):
            raise ConnectionError("closed in the handshake")
        got += more
    return got


# What each kind sends over one connection, after its greeting.


def empty_frames(frames: int = 3_000_000) -> Iterator[bytes]:
    """Messages of millions of empty frames."""
    most = frame(b"", more=True) * 50_000
    while True:
        for _ in range(frames // 50_000):
            yield most
        yield frame(b"")


def unfinished() -> Iterator[bytes]:
    """A message of empty frames that never ends."""
    return itertools.repeat(frame(b"", more=True) * 50_000)


def unfinished_large() -> Iterator[bytes]:
    """A message of large frames that never ends."""
    return itertools.repeat(frame(bytes(60_000), more=True))


def announced() -> Iterator[bytes]:
    """A frame that is announced, and does not come."""
    yield bytes([LONG]) + (64 * 1024).to_bytes(8, "big") + b"x"


def full() -> Iterator[bytes]:
    """Messages as large as may be, which no server takes."""
    return itertools.repeat(frame(b"\x80", more=True) + frame(bytes(60_000)))


def junk() -> Iterator[bytes]:
    """Small messages, which no server takes."""
    return itertools.repeat(frame(b"\xc1") * 1000)


def requests() -> Iterator[bytes]:
    """Requests for the status of the run, whose answers are never read."""
    return itertools.repeat(frame(msgpack.packb({"v": 1, "t": "status"})) * 100)


def echoes() -> Iterator[bytes]:
    """Echoes, whose answers are never read."""
    header = frame(msgpack.packb({"v": 1, "t": "echo"}), more=True)
    return itertools.repeat(header + frame(bytes(60_000)))


def hellos() -> Iterator[bytes]:
    """Hellos of ever new observers."""
    hello = {"v": 1, "t": "hello", "role": "observer", "worker": 0, "name": "flood"}
    return itertools.repeat(frame(msgpack.packb(hello)) * 100)


SENDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "empty_frames": empty_frames,
    "unfinished": unfinished,
    "unfinished_large": unfinished_large,
    "announced": announced,
    "full": full,
    "junk": junk,
    "requests": requests,
    "echoes": echoes,
    "hellos": hellos,
}
KINDS: Final = (*SENDS, "connections", "silent", "half_greeted")


def attack(kind: str, host: str, port: int, is_over: Callable[[], bool] = lambda: False) -> None:
    """Attacks over one connection at a time, until it is over."""
    while not is_over():
        with contextlib.suppress(OSError):
            if kind in SENDS:
                _send(kind, host, port, is_over)
            else:
                _crowd(kind, host, port, is_over)


def _send(kind: str, host: str, port: int, is_over: Callable[[], bool]) -> None:
    with connected(host, port) as peer:
        for content in SENDS[kind]():
            peer.sendall(content)
            if is_over():
                return
        while not is_over() and peer.recv(4096):  # it has sent all that it has
            pass


def _crowd(kind: str, host: str, port: int, is_over: Callable[[], bool], most: int = 2000) -> None:
    """Connects again and again, and keeps the newest: ever new ones, or such that say nothing."""
    peers: list[socket.socket] = []
    try:
        while not is_over():
            peer = connected(host, port, greets=kind == "connections")
            if kind == "half_greeted":
                peer.sendall(GREETING[:11])
            peers.append(peer)
            if len(peers) > (1 if kind == "connections" else most):
                peers.pop(0).close()
    finally:
        for peer in peers:
            peer.close()


def serve_sink(listener: socket.socket) -> None:
    """Takes connections, and reads what comes over each, for ever."""

    def read(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.sendall(GREETING + READY)
            while peer.recv(1 << 20):
                pass

    while True:
        peer, _ = listener.accept()
        threading.Thread(target=read, args=(peer,), daemon=True).start()


def main() -> None:
    kind, address = sys.argv[1:3]
    host, port = split_address(address)
    if kind == "sink":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), port), family=family)
        print(f"tcp://{host}:{listener.getsockname()[1]}", flush=True)
        serve_sink(listener)
    connections = int(sys.argv[3]) if len(sys.argv) > 3 else CONNECTIONS
    others = [threading.Thread(target=attack, args=(kind, host, port)) for _ in range(connections)]
    for thread in others:
        thread.start()


if __name__ == "__main__":
    main()
