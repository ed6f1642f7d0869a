"""The data connection of a worker to one shard: a queue of requests, a window of them in flight.

A chunk's answer is also the proof that its request was read to the end, so a gradient is sent
from where it lies and may be overwritten once its answer is here. When the connection breaks and
comes back, whatever has no answer is sent again; the server knows what it has applied.

In a segment that is not enough. Who is told late of two reconnections sends twice over the second
of them, and a copy that the server handles after the first one's answer is taken would put old
parameters in the place of the next gradient. So each connection begins with an `attach` of a new
number, all requests follow it, and until it is answered no other answer counts: what answers one of
these requests then has no copy behind it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

from leash.ps.errors import ProtocolError, ServerUnreachableError, SupersededError
from leash.ps.wire.frames import REPLIES, check_payload_count, decode, encode, error_from
from leash.ps.wire.messages import Attach, Attached, Error, Init, Ok, Params, Pull, Push, PushPull
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    data_max_nbytes,
    data_queue,
    make_dealer,
    receive,
)

LOOK_MS: Final = 200  # between two looks at whether this worker still takes part
RECONNECT_S: Final = 30.0

Buffer: TypeAlias = Any  # anything with the buffer protocol
Request: TypeAlias = Init | PushPull | Push | Pull | Attach
Answer: TypeAlias = Params | Ok | Attached
Outgoing: TypeAlias = tuple[Request, Buffer | None]
OnReply: TypeAlias = Callable[[Answer, zmq.Frame | None], None]

ATTACHING: Final = -1  # stands for the chunk of the one request that has none


@dataclass(slots=True)
class Sent:
    """A request in flight."""

    request: Request
    payload: Buffer | None
    unanswered: int  # chunks


class DataChannel:
    """One DEALER to one shard. For one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        window: int,
        chunk_nbytes: int,
    ) -> None:
        """Begins to connect; requests wait until the connection stands.

        Args:
            context: makes the sockets.
            address: tcp://HOST:PORT of the shard's data socket.
            window: how many requests may be in flight.
            chunk_nbytes: the size of a chunk, from which the largest answer follows.
        """
        self.address: Final = address
        self.connected: bool = False
        self.socket: Final = make_dealer(context, data_queue(window), data_max_nbytes(chunk_nbytes))
        self._window: Final = window
        self._waiting: Final[deque[Iterator[Outgoing]]] = deque()
        self._next: Outgoing | None = None  # the first of those that wait
        self._in_flight: Final[dict[int, Sent]] = {}  # by chunk
        self._requests: int = 0  # in flight
        self._attach: Attach | None = None
        self._attaches = 0  # that were sent
        self._is_attaching = False  # the newest of them has no answer yet
        self._monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._lost_s: float | None = None  # since when there has been no connection
        self.socket.connect(address)
        self.socket.setsockopt(zmq.RCVTIMEO, LOOK_MS)

    def close(self) -> None:
        """Twice does no harm."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close()

    def put(self, requests: Iterable[Outgoing]) -> None:
        """Queues requests, each with its payload, which stays as it is until its answer is here.

        Args:
            requests: made when their turn comes: the next chunk is encoded while others travel.
        """
        self._waiting.append(iter(requests))

    def send(self, most: int | None = None) -> None:
        """Sends what the window allows.

        Args:
            most: requests that shall be in flight, if that is less.
        """
        window = self._window if most is None else min(most, self._window)
        while self._requests < window and self.connected and (outgoing := self._peek()):
            self._next = None
            request, payload = outgoing
            chunks = _chunks_of(request)
            sent = Sent(request, payload, len(chunks))
            self._in_flight.update((chunk, sent) for chunk in chunks)
            self._requests += 1
            self._send(sent)

    def take(self, on_reply: OnReply, flags: int = zmq.DONTWAIT) -> bool:
        """Takes one answer, if one has come or, with flags 0, comes soon.

        Args:
            on_reply: gets the answer and its payload, which is valid during the call.

        Returns:
            Whether one came.

        Raises:
            ProtocolError: what the server answered.
        """
        frames = receive(self.socket, flags)
        if frames:
            self._on_frames(frames, on_reply)
        return bool(frames)

    def _peek(self) -> Outgoing | None:
        """The next request, which stays the next one; None if none waits."""
        while self._next is None and self._waiting:
            self._next = next(self._waiting[0], None)
            if self._next is None:
                self._waiting.popleft()
        return self._next

    @property
    def idle(self) -> bool:
        return not (self._in_flight or self._peek())

    @property
    def awaits_last(self) -> bool:
        """One more answer, and nothing is left to do."""
        return self._requests == 1 and self._peek() is None

    def forget(self) -> None:
        """Drops what is queued and in flight: its answers, if they come, are ignored."""
        self._waiting.clear()
        self._next = None
        self._in_flight.clear()
        self._requests = 0
        self._is_attaching = False

    def keep_attached(self, attach: Attach) -> None:
        """This segment is the server's too, over every connection to come."""
        self._attach = attach

    def look_around(self, wait_ms: int = 0) -> None:
        """No answer for a while: does the connection stand?

        Args:
            wait_ms: for the connection to be made, where there is none.

        Raises:
            ServerUnreachableError: the connection is gone and does not come back.
        """
        self._attend_connection(wait_ms)
        if self.connected:
            return
        now = time.monotonic()
        self._lost_s = self._lost_s or now
        if now - self._lost_s > RECONNECT_S:
            raise ServerUnreachableError(
                f"no connection to {self.address} for {RECONNECT_S:.0f} s; is the port open?"
            )

    def _send(self, sent: Sent) -> None:
        if isinstance(sent.request, Attach):
            self._attaches += 1
            self._is_attaching = True
            sent.request = replace(sent.request, number=self._attaches)
        flags = zmq.DONTWAIT | (zmq.SNDMORE if sent.payload is not None else 0)
        try:
            self.socket.send(encode(sent.request), flags)
            if sent.payload is not None:
                copies = len(sent.payload) < COPY_BELOW_NBYTES
                self.socket.send(sent.payload, zmq.DONTWAIT, copy=copies)
        except zmq.Again:
            return  # the connection has just broken; `_resume` sends it again

    def _attend_connection(self, wait_ms: int = 0) -> None:
        """Sees what has become of the connection since this was called last."""
        is_new = False
        while self._monitor.poll(0 if self.connected else wait_ms):
            event = recv_monitor_message(self._monitor)["event"]
            self.connected = is_new = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if is_new:
            self._lost_s = None
            self._resume()

    def _resume(self) -> None:
        """Sends over a new connection what has no answer."""
        if self._attach is not None and self._in_flight.get(ATTACHING) is None:
            # The server takes a segment's gradients only over the connection that attached it.
            self._send(Sent(self._attach, None, 1))
        for sent in {id(sent): sent for sent in self._in_flight.values()}.values():
            self._send(sent)

    def _on_frames(self, frames: list[zmq.Frame], on_reply: OnReply) -> None:
        header, *payloads = frames
        message = decode(header.bytes, REPLIES)
        check_payload_count(message, len(payloads))
        if isinstance(message, Error):
            self._on_error(message)
            return
        if not isinstance(message, (Params, Ok, Attached)):
            raise ProtocolError(f"{self.address}: unexpected {message.verb}")
        if isinstance(message, Attached):
            self._is_attaching &= message.number != self._attaches
        if self._is_attaching:
            return
        # An answer to a request that was sent twice may come twice.
        if self._is_awaited(message):
            on_reply(message, payloads[0] if payloads else None)
            self._settle(message)

    def _is_awaited(self, message: Params | Ok | Attached | Error) -> bool:
        return all(self._sent_for(chunk, message) for chunk in _chunks_of(message))

    def _sent_for(self, chunk: int, message: Any) -> Sent | None:
        """The request in flight that this answers."""
        sent = self._in_flight.get(chunk)
        if sent is None or getattr(message, "step", 0) != getattr(sent.request, "step", 0):
            return None
        return sent

    def _settle(self, message: Answer) -> None:
        for chunk in _chunks_of(message):
            sent = self._in_flight.pop(chunk)
            sent.unanswered -= 1
            self._requests -= sent.unanswered == 0

    def _on_error(self, message: Error) -> None:
        error = error_from(message)
        if not isinstance(error, SupersededError):
            raise error
        if self._attach is not None:
            # It went over a connection that is not attached, since the news of it are still to be
            # read, or a newer copy of ours is behind it.
            self._attend_connection()
            return
        # A copy that went over the broken connection came in after the one that is in flight, and
        # took its place: the answer would go nowhere.
        sent = self._sent_for(message.chunk, message)
        if sent is not None:
            self._send(sent)


def _chunks_of(message: Any) -> range:
    """The chunks that a request or an answer is about: the first named, then those before it."""
    if isinstance(message, (Attach, Attached)):
        return range(ATTACHING, ATTACHING + 1)
    return range(message.chunk, message.chunk - getattr(message, "chunks", 1), -1)
