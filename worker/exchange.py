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
from ps.sockets import COPY_BELOW_NBYTES, data_max_nbytes, data_queue, make_dealer, receive
from ps.wire.frames import REPLIES, check_payload_count, decode, encode, error_from
from ps.wire.messages import Error, Init, Ok, Params, Pull, Push, PushPull

LOOK_MS: Final = 200  # between two looks at whether this worker still takes part
RECONNECT_S: Final = 30.0
# Where answers come sooner than this, a worker does not sleep for the last one of a step.
SPIN_S: Final = 500e-6

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
        self._waited_s = 0.0  # for the newest answer
        self._socket.connect(address)
        self._socket.setsockopt(zmq.RCVTIMEO, LOOK_MS)

    def close(self) -> None:
        """Twice does no harm."""
        if self._socket.closed:
            return
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
            began_s = time.perf_counter()
            frames = self._await_answer(is_last=len(in_flight) == 1 and not waiting)
            self._waited_s = time.perf_counter() - began_s
            wait_s += self._waited_s
            if frames:
                self._on_frames(frames, in_flight, on_reply)
            else:
                self._look_around(in_flight)
        return wait_s

    def _await_answer(self, *, is_last: bool) -> list[zmq.Frame]:
        """The frames of the next answer; none if none came for a while."""
        if not self._connected:
            return []
        if is_last and self._waited_s < SPIN_S:
            self._spin()
        # Waiting on this one socket costs less than to poll it together with its monitor.
        return receive(self._socket, flags=0)

    def _spin(self) -> None:
        """Looks for an answer for a moment without going to sleep.

        Four threads hand a small exchange on, and to wake a processor that has gone idle costs as
        much as to compute: 87 KB took 276 µs with sleeping, 183 µs without, on a virtual machine.
        """
        end_s = time.perf_counter() + SPIN_S
        while time.perf_counter() < end_s:
            events = self._socket.getsockopt(zmq.EVENTS)
            assert isinstance(events, int)
            if events & zmq.POLLIN:
                return

    def _send(self, request: Request, payload: Buffer | None) -> None:
        try:
            self._socket.send(
                encode(request), zmq.DONTWAIT | (zmq.SNDMORE if payload is not None else 0)
            )
            if payload is not None:
                self._socket.send(payload, zmq.DONTWAIT, copy=len(payload) < COPY_BELOW_NBYTES)
        except zmq.Again:
            return  # the connection has just broken; `_on_connection` sends it again

    def _look_around(self, in_flight: dict[int, Sent]) -> None:
        """No answer for a while: does the connection stand, do we still take part?"""
        self._check()
        while self._monitor.poll(0 if self._connected else LOOK_MS):
            self._on_connection(in_flight)
        self._check_connection()

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

    def _on_frames(
        self, frames: list[zmq.Frame], in_flight: dict[int, Sent], on_reply: OnReply
    ) -> None:
        header, *payloads = frames
        message = decode(header.bytes, REPLIES)
        check_payload_count(message, len(payloads))
        if isinstance(message, Error):
            self._on_error(message, in_flight)
            return
        if not isinstance(message, (Params, Ok)):
            raise ProtocolError(f"{self._address}: unexpected {message.verb}")
        sent = _request_of(message, in_flight)
        # An answer to a request that was sent twice may come twice.
        if sent is not None:
            on_reply(message, payloads[0] if payloads else None)
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
