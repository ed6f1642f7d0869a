"""A client of the control socket, which sends a request and waits for its answer."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

import msgpack
import zmq

from leash.ps.errors import ServerUnreachableError, UsageError, WrongSocketError
from leash.ps.wire import hosts
from leash.ps.wire.frames import check_payload_count, decode_as, encode
from leash.ps.wire.messages import Message, State, Status
from leash.ps.wire.sockets import (
    CONTROL_MAX_NBYTES,
    CONTROL_QUEUE,
    connect,
    host_and_port,
    make_dealer,
)

DEFAULT_TIMEOUT_S: Final = 5.0
WAIT_SLICE_S: Final = 0.5  # `await_state` calls back so often while it waits

AnswerT = TypeVar("AnswerT", bound=Message)


class ControlChannel:
    """Asks one server. Connects with the first request.

    REQUIRES: used by one thread at a time; sockets are not thread-safe.
    """

    def __init__(
        self, address: str, context: "zmq.Context[zmq.Socket[bytes]] | None" = None
    ) -> None:
        """Notes the address; the first request connects.

        Args:
            address: tcp://HOST:PORT of the control socket.
            context: whose sockets to use; None for a context of this channel's own.
        """
        self.address: Final = address
        self._owns_context: Final = context is None
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = context or zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None

    def request(
        self,
        message: Message,
        expected: type[AnswerT],
        payload: bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> tuple[AnswerT, bytes | None]:
        """Sends a message and waits for its answer; returns the answer and its payload.

        Raises:
            ServerUnreachableError: no answer came in time.
            ProtocolError: the answer is an `error`, or, as a HeaderError, of another type.
            UsageError: the address is none.
        """
        try:
            header, *payloads = self._exchange(message, payload, timeout_s)
        except BaseException:
            # The answer may still come, and would be taken for that to the next request.
            self._disconnect()
            raise
        try:
            answer = decode_as(expected, header)
        except WrongSocketError as error:
            raise UsageError(f"address {self.address}: {error}") from error
        check_payload_count(answer, len(payloads))
        return answer, payloads[0] if payloads else None

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        self._disconnect()
        if self._owns_context:
            self._context.term()

    def __enter__(self) -> "ControlChannel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _exchange(self, message: Message, payload: bytes | None, timeout_s: float) -> list[bytes]:
        deadline_s = time.monotonic() + timeout_s
        socket = self._connected()
        # The socket is IMMEDIATE: it can be written to only while its connection stands.
        for readiness in (zmq.POLLOUT, zmq.POLLIN):
            left_s = max(0.0, deadline_s - time.monotonic())
            if not socket.poll(int(left_s * 1000), readiness):
                raise self._unreachable(timeout_s, connected=readiness == zmq.POLLIN)
            if readiness == zmq.POLLOUT:
                frames = [encode(message)] if payload is None else [encode(message), payload]
                try:
                    socket.send_multipart(frames, zmq.DONTWAIT)
                except zmq.Again as error:  # the connection has just broken
                    raise self._unreachable(timeout_s, connected=False) from error
        return socket.recv_multipart(zmq.DONTWAIT)

    def _unreachable(self, timeout_s: float, *, connected: bool) -> ServerUnreachableError:
        return ServerUnreachableError(_no_answer(self.address, timeout_s, connected=connected))

    def _connected(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            socket = make_dealer(self._context, CONTROL_QUEUE, CONTROL_MAX_NBYTES)
            try:
                connect(socket, self.address)
            except BaseException:
                socket.close(linger=0)
                raise
            self._socket = socket
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)  # no request waits for an answer any more
            self._socket = None


def request_state(channel: ControlChannel, timeout_s: float = DEFAULT_TIMEOUT_S) -> dict[str, Any]:
    """Asks how the run stands; gives the payload of `state`, as docs/wire-format.md lists it."""
    _, payload = channel.request(Status(), State, timeout_s=timeout_s)
    state: dict[str, Any] = msgpack.unpackb(payload or b"\x80", max_map_len=1024)
    return state


def await_state(
    channel: ControlChannel, wait_s: float, on_wait: Callable[[float], None]
) -> dict[str, Any]:
    """Asks how the run stands, again and again until the server answers.

    Args:
        channel: to the server.
        wait_s: seconds to wait at most.
        on_wait: called about every half second with the seconds waited so far.

    Raises:
        UsageError: no answer came in time, so the address must be wrong, or the server is not up.
    """
    began_s = time.monotonic()
    while True:
        waited_s = time.monotonic() - began_s
        try:
            return request_state(channel, min(WAIT_SLICE_S, max(0.0, wait_s - waited_s)))
        except ServerUnreachableError as error:
            waited_s = time.monotonic() - began_s
            if waited_s >= wait_s:
                raise UsageError(_no_answer(channel.address, wait_s)) from error
            on_wait(waited_s)


def _no_answer(address: str, waited_s: float, *, connected: bool = False) -> str:
    """Says that no server answers, and what mends it."""
    host, port = host_and_port(address)
    if unknown := hosts.why_unknown(host):
        mend = f"no host {host} is known here ({unknown}); mend its name, or give its address"
    elif connected or hosts.is_open(host, port):
        mend = "something listens there but does not answer; is it a leash server?"
    elif hosts.is_every(host):
        mend = f"{host} is where a server listens; give an address of the server's host"
    else:
        mend = "start one with leash server, or give its address, tcp://HOST:PORT"
    return f"no server answers at {address} (waited {waited_s:g} s): {mend}"
