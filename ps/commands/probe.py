"""Measures round trip and bandwidth on the way to a server, by `echo` over its data socket."""

import time
from types import TracebackType
from typing import Final

import zmq

from leash.ps.errors import ServerUnreachableError
from leash.ps.options.addresses import split_address
from leash.ps.wire.curve import secure_client
from leash.ps.wire.frames import check_payload_count, decode_as, encode
from leash.ps.wire.keys import ClientKey
from leash.ps.wire.messages import Echo, Echoed
from leash.ps.wire.sockets import bind, connect, data_max_nbytes, data_queue, make_dealer

TIMEOUT_S: Final = 1.0  # a server that is silent for longer is not there
ECHOES: Final = 50
IN_FLIGHT: Final = 8
SPAN_S: Final = 0.8  # a measurement takes no longer
MIB: Final = 1 << 20


class Probe:
    """A connection to the data socket of one server."""

    def __init__(
        self, control_address: str, data_port: int, chunk_nbytes: int,
        key: ClientKey | None = None,
    ) -> None:  # fmt: skip
        """Connects to the data socket, without waiting for it.

        Args:
            control_address: tcp://HOST:PORT of the control socket; the data socket is on that host.
            data_port: the port of the data socket.
            chunk_nbytes: the largest payload that the server takes.
            key: for a server that has keys.
        """
        host, _ = split_address(control_address)
        self.address: Final = f"tcp://{host}:{data_port}"
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._socket: Final = make_dealer(
            self._context, data_queue(IN_FLIGHT), data_max_nbytes(chunk_nbytes), key
        )
        connect(self._socket, self.address)

    def __enter__(self) -> "Probe":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._context.destroy(linger=0)

    def round_trip_s(self) -> float:
        """Measures the median time from a small message to its answer; ServerUnreachableError."""
        times_s: list[float] = []
        end_s = time.perf_counter() + SPAN_S
        while len(times_s) < ECHOES and (not times_s or time.perf_counter() < end_s):
            began_s = time.perf_counter()
            self._send(b"\0")
            self._receive(1)
            times_s.append(time.perf_counter() - began_s)
        return sorted(times_s)[len(times_s) // 2]

    def bytes_per_s(self, payload_nbytes: int) -> float:
        """Measures the payload per second, each way at once. Raises ServerUnreachableError."""
        payload = bytes(payload_nbytes)
        began_s = time.perf_counter()
        for _ in range(IN_FLIGHT):
            self._send(payload)
        received = 0
        while time.perf_counter() - began_s < SPAN_S:
            self._receive(payload_nbytes)
            self._send(payload)
            received += 1
        for _ in range(IN_FLIGHT):
            self._receive(payload_nbytes)
        return (received + IN_FLIGHT) * payload_nbytes / (time.perf_counter() - began_s)

    def _send(self, payload: bytes) -> None:
        self._await(zmq.POLLOUT)
        self._socket.send(encode(Echo()), zmq.SNDMORE)
        self._socket.send(payload, copy=False)

    def _receive(self, nbytes: int) -> None:
        self._await(zmq.POLLIN)
        header, *payloads = self._socket.recv_multipart(copy=False)
        check_payload_count(decode_as(Echoed, bytes(header.buffer)), len(payloads))
        assert len(payloads[0].buffer) == nbytes

    def _await(self, readiness: int) -> None:
        if not self._socket.poll(int(TIMEOUT_S * 1000), readiness):
            raise ServerUnreachableError(
                f"the data socket {self.address} does not answer: open this port, too"
            )


def encrypted_bytes_per_s(nbytes: int = MIB, count: int = 8) -> float:
    """Measures how many bytes one thread of libzmq encrypts and decrypts in a second.

    Args:
        nbytes: of a message.
        count: how many messages to send over a connection of this host to itself.
    """
    public, secret = zmq.curve_keypair()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        taking, giving = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        taking.setsockopt(zmq.CURVE_SERVER, 1)
        taking.setsockopt(zmq.CURVE_SECRETKEY, secret)
        port = bind(taking, "127.0.0.1", 0)
        secure_client(giving, ClientKey(public.decode(), secret.decode(), public.decode()))
        connect(giving, f"tcp://127.0.0.1:{port}")
        message = bytes(nbytes)
        giving.send(message)
        taking.recv()  # the connection stands
        began_s = time.perf_counter()
        for _ in range(count):
            giving.send(message)
        for _ in range(count):
            taking.recv()
        return nbytes * count / (time.perf_counter() - began_s)
    finally:
        context.destroy(linger=0)
