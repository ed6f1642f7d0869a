"""A client of the control socket, which sends a request until it has an answer.

::

    request ─▸  connection breaks      request again ─▸  answer
                                       over the next connection
    request ─▸  silence for RETRY_S    request again ─▸  answer
                                       over a connection of its own

Every request may be repeated: docs/wire-format.md says of each what a repetition does.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

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
RETRY_S: Final = 2.0  # a request without an answer for so long is sent again, over a new connection
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
        self._monitor: zmq.Socket[bytes] | None = None  # tells when it connects, and breaks
        self._stands = False  # whether the connection does, as far as the monitor was read

    def request(
        self,
        message: Message,
        expected: type[AnswerT],
        payload: bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[AnswerT, bytes | None]:
        """Sends a message and waits for its answer; returns the answer and its payload.

        A message whose connection breaks, or that has no answer for a while, is sent again.

        Args:
            message: the request.
            expected: the type of its answer.
            payload: of the request, if it has one.
            timeout_s: how long to wait for the answer, however often the message is sent.
            is_wanted: asked before the message is sent again after a silence: whether anybody
                still waits for the answer.

        Raises:
            ServerUnreachableError: no answer came in time.
            ProtocolError: the answer is an `error`, or, as a HeaderError, of another type.
            UsageError: the address is none.
        """
        frames = [encode(message)] if payload is None else [encode(message), payload]
        deadline_s = time.monotonic() + timeout_s
        try:
            while (answer := self._attempt(frames, deadline_s)) is None:
                if time.monotonic() >= deadline_s or not is_wanted():
                    raise self._unreachable(timeout_s, connected=self._stands)
                # The server is silent on it, or is elsewhere; otherwise it is still being made.
                if self._stands or self._goes_astray():
                    self._disconnect()
        except BaseException:
            # The answer may still come, and would be taken for that to the next request.
            self._disconnect()
            raise
        header, *payloads = answer
        try:
            came = decode_as(expected, header)
        except WrongSocketError as error:
            raise UsageError(f"address {self.address}: {error}") from error
        check_payload_count(came, len(payloads))
        return came, payloads[0] if payloads else None

    def close(self) -> None:
        """Closes the connection. A second call does nothing."""
        self._disconnect()
        if self._owns_context:
            self._context.destroy(linger=0)

    def __enter__(self) -> "ControlChannel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _attempt(self, frames: list[bytes], deadline_s: float) -> list[bytes] | None:
        """Sends a request over each connection that comes to stand, until one brings the answer.

        Returns:
            The frames of the answer; None if there is none within `RETRY_S`, or by the deadline.
        """
        deadline_s = min(deadline_s, time.monotonic() + RETRY_S)
        while self._send(frames, deadline_s):
            if (answer := self._receive(deadline_s)) is not None:
                return answer
            if time.monotonic() >= deadline_s:
                break
        return None

    def _send(self, frames: list[bytes], deadline_s: float) -> bool:
        """Sends a request once the connection stands; False if it does not in time."""
        socket = self._connected()
        while (left_ms := _left_ms(deadline_s)) > 0:
            if not self._stands:
                self._look_after(left_ms)
            # A pipe that has just broken may seem writable until the monitor tells.
            elif socket.poll(left_ms, zmq.POLLOUT) and not self._look_after():
                with suppress(zmq.Again):
                    socket.send_multipart(frames, zmq.DONTWAIT)
                    return True
        return False

    def _receive(self, deadline_s: float) -> list[bytes] | None:
        """Waits for the answer; None if the connection breaks first, or none comes in time."""
        socket, monitor = self._socket, self._monitor
        assert socket is not None
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        has_broken = False
        while not has_broken and (left_ms := _left_ms(deadline_s)) > 0:
            poller.poll(left_ms)
            # An answer that came before the connection broke is in the socket when this tells.
            has_broken = self._look_after()
            if socket.poll(0, zmq.POLLIN):
                return socket.recv_multipart(zmq.DONTWAIT)
        return None

    def _look_after(self, wait_ms: int = 0) -> bool:
        """Reads what happened to the connection, and waits if nothing has; tells if it broke."""
        assert self._monitor is not None
        has_broken = False
        while self._monitor.poll(wait_ms):
            wait_ms = 0
            event = recv_monitor_message(self._monitor)["event"]
            self._stands = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            has_broken |= not self._stands
        return has_broken

    def _goes_astray(self) -> bool:
        """Whether the server has to be reached by the other kind of address since it came up."""
        assert self._socket is not None
        over_ipv6 = hosts.needs_ipv6(*host_and_port(self.address))
        return bool(self._socket.getsockopt(zmq.IPV6)) != over_ipv6

    def _unreachable(self, timeout_s: float, *, connected: bool) -> ServerUnreachableError:
        return ServerUnreachableError(_no_answer(self.address, timeout_s, connected=connected))

    def _connected(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            socket = make_dealer(self._context, CONTROL_QUEUE, CONTROL_MAX_NBYTES)
            self._monitor = socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
            )
            self._stands = False
            self._socket = socket
            try:
                connect(socket, self.address)
            except BaseException:
                self._disconnect()
                raise
        return self._socket

    def _disconnect(self) -> None:
        # They are let go of first, so that Ctrl-C in between leaves no closed socket to be used.
        socket, self._socket = self._socket, None
        monitor, self._monitor = self._monitor, None
        if socket is not None:
            socket.disable_monitor()
            socket.close(linger=0)  # no request waits for an answer any more
        if monitor is not None:
            monitor.close(linger=0)


def _left_ms(deadline_s: float) -> int:
    """How many milliseconds are left, rounded up: a poll must not end before the deadline."""
    return max(0, math.ceil((deadline_s - time.monotonic()) * 1000))


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
