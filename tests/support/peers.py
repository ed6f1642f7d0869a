"""A peer that knows pyzmq and msgpack, and nothing of Leash: it can send anything."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import zmq
import zmq.auth

PATIENCE_MS = 5000

Header = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A pair of CURVE keys, and the public one of the server that is to be asked."""

    public: bytes
    secret: bytes
    server: bytes

    @classmethod
    def in_file(cls, path: Path) -> "Key":
        """The key of a file that `leash keys` has made."""
        public, secret = zmq.auth.load_certificate(path)
        assert secret is not None
        (server,) = re.findall(rb'server-key = "(.*)"', path.read_bytes())
        return cls(public, secret, server)

    @classmethod
    def unknown(cls, server: bytes) -> "Key":
        """One that no server knows."""
        return cls(*zmq.curve_keypair(), server)


class Peer:
    """A DEALER connected to one socket of a server."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: Key | None = None,
        route: bytes | None = None,
    ) -> None:  # fmt: skip
        self.socket = context.socket(zmq.DEALER)
        if route is not None:
            self.socket.setsockopt(zmq.ROUTING_ID, route)
        if key is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = key.public, key.secret
            self.socket.curve_serverkey = key.server
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def send(self, header: Header | bytes, *payloads: bytes) -> None:
        """A header as a map is packed with version 1; as bytes it is sent as it is."""
        packed = header if isinstance(header, bytes) else msgpack.packb({"v": 1, **header})
        self.socket.send_multipart([packed, *payloads])

    def receive(self) -> tuple[Header, bytes | None]:
        """The next answer, and its payload."""
        assert self.socket.poll(PATIENCE_MS), "no answer"
        header, *payloads = self.socket.recv_multipart()
        assert len(payloads) <= 1
        return msgpack.unpackb(header), payloads[0] if payloads else None

    def ask(self, header: Header | bytes, *payloads: bytes) -> tuple[Header, bytes | None]:
        self.send(header, *payloads)
        return self.receive()

    def error(self, header: Header | bytes, *payloads: bytes) -> str:
        """The code with which this is refused."""
        answer, _ = self.ask(header, *payloads)
        assert answer["t"] == "error", answer
        return str(answer["code"])


@contextmanager
def peers_by(key: Key, *addresses: str) -> Iterator[list[Peer]]:
    """The same for a server with keys: all of them come by this one."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield [Peer(context, address, key) for address in addresses]
    finally:
        context.destroy(linger=0)


@contextmanager
def peers(*addresses: str) -> Iterator[list[Peer]]:
    """One peer for each address; their sockets are closed in any case."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield [Peer(context, address) for address in addresses]
    finally:
        context.destroy(linger=0)
