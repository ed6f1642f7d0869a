"""The data socket of a worker: a stream of chunks, a window of them in flight.

A chunk's answer is also the proof that its request was read to the end, so a gradient is sent
from where it lies and may be overwritten once its answer is here. When the connection breaks and
comes back, whatever has no answer is sent again; the server knows what it has applied.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

from ps.errors import ProtocolError, ServerUnreachableError, SupersededError
from ps.sockets import COPY_BELOW_NBYTES, data_max_nbytes, data_queue, make_dealer
from ps.wire.frames import REPLIES, check_payload_count, decode, encode, error_from
from ps.wire.messages import Error, Init, Message, Ok, Params, Pull, Push, PushPull

POLL_MS: Final = 200  # between two looks at whether this worker still takes part
RECONNECT_S: Final = 30.0

Buffer: TypeAlias = Any  # anything with the buffer protocol
Request: TypeAlias = Init | PushPull | Push | Pull
OnReply: TypeAlias = Callable[[Params | Ok, zmq.Frame | None], None]


@dataclass(slots=True)
class Sent:
    """A request in flight."""

    request: Request
    payload: Buffer | None


class DataChannel:
    """One DEALER to one shard. For one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        window: int,
        chunk_nbytes: int,
        check: Callable[[], None],
    ) -> None:
        """Args:
        window: requests that may be in flight.
        check: raises when this worker takes part no more; called while waiting.
        """
        self._address: Final = address
        self._window: Final = window
        self._check: Final = check
        self._socket = make_dealer(context, data_queue(window), data_max_nbytes(chunk_nbytes))
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._connected = False
        self._lost_s: float | None = None  # since when there has been no connection
        self._socket.connect(address)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()

    def exchange(
        self, requests: Iterable[tuple[Request, Buffer | None]], on_reply: OnReply
    ) -> float:
        """Sends all requests in their order and hands over each answer as it comes.

        Args:
            requests: messages with their payloads, one a chunk; taken as the window allows.
            on_reply: gets the answer and its payload, which is valid during the call.

        Returns:
            Seconds spent waiting for answers.

        Raises:
            ProtocolError: what the server answered.
            ServerUnreachableError: the connection is gone and does not come back.
        """
        waiting = deque(requests)
        in_flight: dict[int, Sent] = {}
        wait_s = 0.0
        while waiting or in_flight:
            while waiting and len(in_flight) < self._window and self._connected:
                request, payload = waiting.popleft()
                in_flight[request.chunk] = Sent(request, payload)
                self._send(request, payload)
            wait_s += self._wait(in_flight)
            self._receive(in_flight, on_reply)
        return wait_s

    def _send(self, request: Request, payload: Buffer | None) -> None:
        try:
            self._socket.send(
                encode(request), zmq.DONTWAIT | (zmq.SNDMORE if payload is not None else 0)
            )
        except zmq.Again:
            return  # the connection has just broken; `_on_connection` sends it again
        if payload is not None:
            self._socket.send(payload, zmq.DONTWAIT, copy=len(payload) < COPY_BELOW_NBYTES)

    def _wait(self, in_flight: dict[int, Sent]) -> float:
        began_s = time.perf_counter()
        ready = dict(self._poller.poll(POLL_MS))
        if self._monitor in ready:
            self._on_connection(in_flight)
        if not ready:
            self._check()
            self._check_connection()
        return time.perf_counter() - began_s

    def _on_connection(self, in_flight: dict[int, Sent]) -> None:
        event = recv_monitor_message(self._monitor)["event"]
        self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if self._connected:
            self._lost_s = None
            for sent in in_flight.values():
                self._send(sent.request, sent.payload)

    def _check_connection(self) -> None:
        if self._connected:
            return
        now = time.monotonic()
        self._lost_s = self._lost_s or now
        if now - self._lost_s > RECONNECT_S:
            raise ServerUnreachableError(
                f"no connection to {self._address} for {RECONNECT_S:.0f} s; is the port open?"
            )

    def _receive(self, in_flight: dict[int, Sent], on_reply: OnReply) -> None:
        while in_flight:
            try:
                header = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            payloads = []
            while self._socket.rcvmore:
                payloads.append(self._socket.recv(copy=False))
            message = decode(header, REPLIES)
            check_payload_count(message, len(payloads))
            self._on_message(message, payloads[0] if payloads else None, in_flight, on_reply)

    def _on_message(
        self, message: Message, payload: zmq.Frame | None, in_flight: dict[int, Sent],
        on_reply: OnReply,
    ) -> None:  # fmt: skip
        if isinstance(message, Error):
            self._on_error(message, in_flight)
            return
        if not isinstance(message, (Params, Ok)):
            raise ProtocolError(f"{self._address}: unexpected {message.verb}")
        sent = _request_of(message, in_flight)
        # An answer to a request that was sent twice may come twice.
        if sent is not None:
            on_reply(message, payload)
            del in_flight[message.chunk]

    def _on_error(self, message: Error, in_flight: dict[int, Sent]) -> None:
        error = error_from(message)
        if not isinstance(error, SupersededError):
            raise error
        # A copy that went over the broken connection came in after the one that is in flight, and
        # took its place: the answer would go nowhere.
        sent = _request_of(message, in_flight)
        if sent is not None:
            self._send(sent.request, sent.payload)


def _request_of(message: Params | Ok | Error, in_flight: dict[int, Sent]) -> Sent | None:
    """The request in flight that this answers."""
    sent = in_flight.get(message.chunk)
    if sent is None or message.step != getattr(sent.request, "step", 0):
        return None
    return sent
