"""A connection to the control socket over ZeroMQ, and a client that asks one question at a time.

`ControlChannel` waits, and knows sockets; what is sent, and when it is sent again, a `Requester`
decides.
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

from leash.ps.errors import LeashError, ServerUnreachableError, UsageError, WrongSocketError
from leash.ps.wire import hosts
from leash.ps.wire.frames import encode
from leash.ps.wire.keys import ClientKey
from leash.ps.wire.messages import Message, State, Status
from leash.ps.wire.requester import ControlFrames, Requester
from leash.ps.wire.sockets import (
    CONTROL_MAX_NBYTES,
    CONTROL_QUEUE,
    connect,
    host_and_port,
    make_dealer,
)
from leash.ps.words import KEY_VARIABLE

DEFAULT_TIMEOUT_S: Final = 5.0
WAIT_SLICE_S: Final = 0.5  # `await_state` calls back so often while it waits
WATCHED: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
NOT_BOTH_HAVE_KEYS: Final = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH

AnswerT = TypeVar("AnswerT", bound=Message)


class ControlChannel:
    """A connection to one server, which is made with the first request.

    REQUIRES: used by one thread at a time; sockets are not thread-safe.
    """

    def __init__(
        self, address: str, context: "zmq.Context[zmq.Socket[bytes]] | None" = None,
        on_silence: Callable[[float], None] = lambda _: None,
        key: ClientKey | None = None,
    ) -> None:  # fmt: skip
        """Notes the address; the first request connects.

        Args:
            address: tcp://HOST:PORT of the control socket.
            context: whose sockets to use; None for a context of this channel's own.
            on_silence: called about every `RETRY_S` seconds with those for which a request has had
                no answer, and with 0 when it is answered after all.
            key: for a server that has keys.
        """
        self._on_silence: Final = on_silence
        self.address: Final = address
        self.key: Final = key
        self._owns_context: Final = context is None
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = context or zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None  # tells when it connects, and breaks
        self._stands = False  # whether the connection does, as far as the monitor was read
        self._refused: UsageError | None = None  # why the server takes no connection

    def request(
        self,
        message: Message,
        expected: type[AnswerT],
        payload: bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> tuple[AnswerT, bytes | None]:
        """Sends a message and waits for its answer; returns the answer and its payload.

        A message whose connection breaks, or that has no answer for a while, is sent again.

        Args:
            message: the request.
            expected: the type of its answer.
            payload: of the request, if it has one.
            timeout_s: how long to wait for the answer, however often the message is sent.

        Raises:
            ServerUnreachableError: no answer came in time.
            ProtocolError: the answer is an `error`, or, as a HeaderError, of another type.
            UsageError: the address is none.
        """
        question = _Question(message, expected, payload, timeout_s)
        self.carry(question)
        self.require_answer(question)
        assert isinstance(question.answer, expected)
        return question.answer, question.payload

    def carry(self, requester: Requester) -> None:
        """Carries the request that is due, and its repetitions, until it has come to an end.

        Args:
            requester: says how it has ended.

        Raises:
            UsageError: the address is none.
        """
        try:
            self._connected()
            requester.lost()
            if self._stands:
                requester.connected()
            requester.begin(time.monotonic())
            was_silent = False
            while requester.is_busy:
                frames = requester.next(time.monotonic())
                if frames is not None:
                    self._send(requester, frames)
                elif requester.renews:
                    was_silent = True
                    self._on_silence(requester.waited_s(time.monotonic()))
                    self._renew(requester)
                else:
                    self._await(requester)
            if was_silent and requester.silence is None:
                self._on_silence(0.0)
        except BaseException:
            # The answer may still come, and would be taken for that to the next request.
            requester.abandon()
            self._disconnect()
            raise

    def require_answer(self, requester: Requester) -> None:
        """Raises the error with which a request ended, if it did, with the address and a mend.

        Args:
            requester: that `carry` has carried.

        Raises:
            LeashError: that error.
        """
        if (error := self.explained(requester)) is not None:
            raise error from error.__cause__

    def explained(self, requester: Requester) -> LeashError | None:
        """Tells with which error a request ended, for people: with the address and a mend.

        Args:
            requester: that `carry` has carried.

        Returns:
            The error; None if the request was answered.
        """
        error, silence = requester.error, requester.silence
        if silence is not None:
            text = _no_answer(
                self.address, silence.waited_s, connected=silence.connected,
                has_key=self.key is not None,
            )  # fmt: skip
            return ServerUnreachableError(text)
        if isinstance(error, WrongSocketError):
            wrong = UsageError(f"address {self.address}: {error}")
            wrong.__cause__ = error
            return wrong
        return error

    def renew(self) -> None:
        """Has the next request go over a new connection: nobody knows what became of this one."""
        self._disconnect()

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

    def _send(self, requester: Requester, frames: ControlFrames) -> None:
        """Sends frames if the connection takes them before the requester has to be asked again."""
        socket, has_broken = self._connected(), False
        # A pipe that has just broken may seem writable until the monitor tells.
        if socket.poll(_left_ms(requester.wake_s), zmq.POLLOUT):
            has_broken = self._look_after()
            if not has_broken:
                with suppress(zmq.Again):
                    socket.send_multipart(frames, zmq.DONTWAIT)
                    return
        requester.put_back()
        self._tell(requester, has_broken=has_broken)

    def _await(self, requester: Requester) -> None:
        """Waits until something happens to the connection, or the requester is to be asked."""
        socket, left_ms = self._connected(), _left_ms(requester.wake_s)
        if not requester.stands:
            self._tell(requester, has_broken=self._look_after(left_ms))
            return
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        poller.poll(left_ms)
        # An answer that came before the connection broke is in the socket when this tells.
        has_broken = self._look_after()
        if socket.poll(0, zmq.POLLIN):
            requester.receive(socket.recv_multipart(zmq.DONTWAIT), time.monotonic())
        self._tell(requester, has_broken=has_broken)

    def _tell(self, requester: Requester, *, has_broken: bool) -> None:
        if has_broken:
            requester.lost()
        if self._refused is not None:
            requester.refuse(self._refused)
        if self._stands and not requester.stands:
            requester.connected()

    def _renew(self, requester: Requester) -> None:
        """Gives the connection up, so that another one is made.

        One that is still being made is kept for a request that goes on, unless it goes astray.
        """
        if requester.stands or not requester.is_busy or self._goes_astray():
            self._disconnect()
        requester.lost()

    def _look_after(self, wait_ms: int = 0) -> bool:
        """Reads what happened to the connection, and waits if nothing has; tells if it broke."""
        assert self._monitor is not None
        has_broken = False
        while self._monitor.poll(wait_ms):
            wait_ms = 0
            event = recv_monitor_message(self._monitor)
            self._stands = event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._refused = self._refused or self._refusal(event["event"], event["value"])
            has_broken |= not self._stands
        return has_broken

    def _refusal(self, event: int, value: int) -> UsageError | None:
        """What the end of a handshake tells of keys, if it was about them."""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            mend = "does not let this key in; leash keys list DIR tells there which ones it does"
        elif (event, value) != (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, NOT_BOTH_HAVE_KEYS):
            return None
        elif self.key is None:
            mend = f"takes only those who have a key; give --key FILE, or set {KEY_VARIABLE} to it"
        else:
            mend = f"has no keys; leave --key and {KEY_VARIABLE} out, or start it with --keys DIR"
        return UsageError(f"the server at {self.address} {mend}")

    def _goes_astray(self) -> bool:
        """Whether the server has to be reached by the other kind of address since it came up."""
        assert self._socket is not None
        over_ipv6 = hosts.needs_ipv6(*host_and_port(self.address))
        return bool(self._socket.getsockopt(zmq.IPV6)) != over_ipv6

    def _connected(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            socket = make_dealer(self._context, CONTROL_QUEUE, CONTROL_MAX_NBYTES, self.key)
            self._monitor = socket.get_monitor_socket(WATCHED)
            self._stands, self._refused = False, None
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


class _Question(Requester):
    """One request, whose answer somebody waits for."""

    def __init__(
        self, message: Message, expected: type[Message], payload: bytes | None, timeout_s: float
    ) -> None:
        super().__init__()
        header = encode(message)
        self._question: Final = (header,) if payload is None else (header, payload)
        self._wants: Final = expected
        self._patience_s: Final = timeout_s
        self.answer: Message | None = None
        self.payload: bytes | None = None

    def begin(self, now_s: float) -> None:
        if not self.is_busy:
            self._ask(self._question, self._wants, self._patience_s, now_s)

    def _take(self, answer: Message, payload: bytes | None, now_s: float) -> None:
        self.answer, self.payload = answer, payload


def _left_ms(deadline_s: float) -> int:
    """How many milliseconds are left, rounded up: a poll must not end before the deadline."""
    return max(0, math.ceil((deadline_s - time.monotonic()) * 1000))


def request_state(
    channel: ControlChannel, timeout_s: float = DEFAULT_TIMEOUT_S, *, stacks: bool = False
) -> dict[str, Any]:
    """Asks how the run stands; gives the payload of `state`, as docs/wire-format.md lists it.

    Args:
        channel: to the server.
        timeout_s: how long to wait for an answer.
        stacks: has the server ask the workers for their stacks, which later answers have.
    """
    _, payload = channel.request(Status(stacks), State, timeout_s=timeout_s)
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
                raise UsageError(
                    _no_answer(channel.address, wait_s, has_key=channel.key is not None)
                ) from error
            on_wait(waited_s)


def _no_answer(
    address: str, waited_s: float, *, connected: bool = False, has_key: bool = False
) -> str:
    """Says that no server answers, and what mends it."""
    host, port = host_and_port(address)
    if unknown := hosts.why_unknown(host):
        mend = f"no host {host} is known here ({unknown}); mend its name, or give its address"
    elif has_key and not connected and hosts.is_open(host, port):
        mend = "something listens there, but not by the server's key that --key names, or by none"
    elif connected or hosts.is_open(host, port):
        mend = "something listens there but does not answer; is it a leash server?"
        if not connected:  # a server with keys may hang up before it has said so
            mend += " one with keys takes only those who give --key FILE"
    elif hosts.is_every(host):
        mend = f"{host} is where a server listens; give an address of the server's host"
    else:
        mend = "start one with leash server, or give its address, tcp://HOST:PORT"
    return f"no server answers at {address} (waited {waited_s:g} s): {mend}"
