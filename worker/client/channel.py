"""The data connection of a worker to one shard: a queue of requests, a window of them in flight.

A chunk's answer proves that the server has read its request to the end. So a gradient is sent from
where it lies, and may be overwritten once its answer is here. When the connection breaks and comes
back, the channel sends again whatever has no answer; the server knows what it has applied.

In a segment that is not enough. A channel that hears late of two reconnections sends its requests
twice over the second of them. The server may then handle the second copy after the channel has
taken the answer to the first, and would write old parameters over the next gradient. So each
connection begins with an `attach` of a new number, all requests follow it, and the channel ignores
every other answer until that one is answered. A request whose answer it takes then has no copy
left on its way.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import zmq
from zmq.utils.monitor import recv_monitor_message

from leash.ps.errors import (
    MissingOptionsError,
    ProtocolError,
    ServerUnreachableError,
    SupersededError,
)
from leash.ps.wire.frames import REPLIES, check_payload_count, decode, encode, error_from
from leash.ps.wire.messages import (
    Attach,
    Attached,
    Error,
    GroupOptions,
    Init,
    Ok,
    OptionsSet,
    Params,
    Publish,
    Pull,
    Push,
    PushPull,
)
from leash.ps.wire.sockets import (
    COPY_BELOW_NBYTES,
    connect,
    data_max_nbytes,
    data_queue,
    make_dealer,
    receive,
)

LOOK_MS: Final = 200  # a waiting worker looks so often whether it still takes part
RECONNECT_S: Final = 60.0  # a connection that is gone for so long is lost

Buffer: TypeAlias = Any  # anything with the buffer protocol
Request: TypeAlias = Init | PushPull | Push | Pull | Publish | Attach | GroupOptions
Answer: TypeAlias = Params | Ok | Attached | OptionsSet
Outgoing: TypeAlias = tuple[Request, Buffer | None]
OnReply: TypeAlias = Callable[[Answer, zmq.Frame | None], None]

# Requests without a chunk are in flight under these numbers.
ATTACHING: Final = -1
SETTING_OPTIONS: Final = -2


@dataclass(slots=True)
class Sent:
    """A request in flight, with its payload, in case it has to be sent again."""

    request: Request
    payload: Buffer | None
    unanswered: int  # how many of its chunks have no answer yet


class DataChannel:
    """One DEALER socket to one shard, which one thread uses.

    Attributes:
        address: tcp://HOST:PORT of the shard's data socket.
        connected: whether the connection stands, as far as this thread has looked.
        socket: for polling; everything else goes through the methods.
    """

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
        self._next: Outgoing | None = None  # the first request that waits, once it was looked at
        self._in_flight: Final[dict[int, Sent]] = {}  # by chunk
        self._requests: int = 0  # how many are in flight; one may carry several chunks
        self._attach: Attach | None = None  # begins every connection, once there is a segment
        self._attaches = 0  # how many were sent
        self._is_attaching = False  # whether the newest of them has no answer yet
        self._monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._lost_s: float | None = None  # since when there has been no connection
        connect(self.socket, address)
        self.socket.setsockopt(zmq.RCVTIMEO, LOOK_MS)

    def close(self) -> None:
        """Closes the sockets; a second call does nothing."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close()

    def put(self, requests: Iterable[Outgoing]) -> None:
        """Queues requests, each with its payload, which stays as it is until its answer is here.

        Args:
            requests: are drawn when their turn comes, so that the next chunk is encoded while
                others travel.
        """
        self._waiting.append(iter(requests))

    def send(self, most: int | None = None) -> None:
        """Sends as many of the queued requests as the window allows.

        Args:
            most: how many requests may be in flight, if that is less than the window.
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
            flags: zmq.DONTWAIT, or 0 to wait for up to `LOOK_MS`.

        Returns:
            Whether one came.

        Raises:
            ProtocolError: the server refused a request, or its answer is not one to what was asked.
        """
        frames = receive(self.socket, flags)
        if frames:
            self._on_frames(frames, on_reply)
        return bool(frames)

    def _peek(self) -> Outgoing | None:
        """The request that is to be sent next, without taking it; None if none waits."""
        while self._next is None and self._waiting:
            self._next = next(self._waiting[0], None)
            if self._next is None:
                self._waiting.popleft()
        return self._next

    @property
    def idle(self) -> bool:
        """Whether no request waits to be sent or answered."""
        return not (self._in_flight or self._peek())

    @property
    def awaits_last(self) -> bool:
        """Whether one more answer leaves nothing to do."""
        return self._requests == 1 and self._peek() is None

    def forget(self) -> None:
        """Drops what is queued and in flight; `take` ignores the answers that still come."""
        self._waiting.clear()
        self._next = None
        self._in_flight.clear()
        self._requests = 0
        self._is_attaching = False

    def keep_attached(self, attach: Attach) -> None:
        """Notes a segment that the server has mapped: every new connection attaches it again.

        Args:
            attach: the request that named the segment.
        """
        self._attach = attach

    def look_around(self, wait_ms: int = 0) -> None:
        """Looks after the connection, when no answer has come for a while.

        Args:
            wait_ms: how long to wait for the connection, where there is none.

        Raises:
            ServerUnreachableError: there has been no connection for `RECONNECT_S` seconds.
        """
        self._attend_connection(wait_ms)
        if self.connected:
            return
        now = time.monotonic()
        self._lost_s = self._lost_s or now
        if now - self._lost_s > RECONNECT_S:
            raise ServerUnreachableError(
                f"no server answers at {self.address}: no connection for {RECONNECT_S:.0f} s; "
                "is the port open?"
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
        """Reads what happened to the connection since the last call, and resumes on a new one."""
        is_new = False
        while self._monitor.poll(0 if self.connected else wait_ms):
            event = recv_monitor_message(self._monitor)["event"]
            self.connected = is_new = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if is_new:
            self._lost_s = None
            self._resume()

    def _resume(self) -> None:
        """Sends everything that has no answer over a new connection."""
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
        if not isinstance(message, (Params, Ok, Attached, OptionsSet)):
            raise ProtocolError(f"{self.address}: unexpected {message.verb}")
        if isinstance(message, Attached):
            self._is_attaching &= message.number != self._attaches
        if self._is_attaching:
            return
        # A request that was sent twice may be answered twice; the second answer is ignored.
        if self._is_awaited(message):
            on_reply(message, payloads[0] if payloads else None)
            self._settle(message)

    def _is_awaited(self, message: Answer) -> bool:
        return all(self._sent_for(chunk, message) for chunk in _chunks_of(message))

    def _sent_for(self, chunk: int, message: Any) -> Sent | None:
        """The request in flight that a message answers for a chunk; None if there is none."""
        sent = self._in_flight.get(chunk)
        return sent if sent is not None and _is_about(message, sent.request) else None

    def _settle(self, message: Answer) -> None:
        for chunk in _chunks_of(message):
            sent = self._in_flight.pop(chunk)
            sent.unanswered -= 1
            self._requests -= sent.unanswered == 0

    def _on_error(self, message: Error) -> None:
        error = error_from(message)
        if isinstance(error, MissingOptionsError):
            # The push went over a new connection before this thread had read of it, so before the
            # `options` that were lost with the old one. Both follow now, or have followed already.
            self._attend_connection()
            return
        if not isinstance(error, SupersededError):
            raise error
        if self._attach is not None:
            # Either the request went over a new connection before this thread had read of it, so
            # before the `attach`; or a newer copy of the request follows and will be answered.
            self._attend_connection()
            return
        # A copy that went over the broken connection reached the server after the one that is in
        # flight, and took its place there. Its answer would go nowhere, so the request goes again.
        sent = self._sent_for(message.chunk, message)
        if sent is not None:
            self._send(sent)


def _chunks_of(message: Any) -> range:
    """The chunks that a message is about: the one that it names, then those before it."""
    if isinstance(message, (Attach, Attached)):
        return range(ATTACHING, ATTACHING + 1)
    if isinstance(message, (GroupOptions, OptionsSet)):
        return range(SETTING_OPTIONS, SETTING_OPTIONS + 1)
    return range(message.chunk, message.chunk - getattr(message, "chunks", 1), -1)


def _is_about(message: Any, request: Request) -> bool:
    """Whether a message is about this request, not about one before it on the same chunk.

    Pushes have steps, and other requests numbers; an error repeats no number.
    """
    names = ("step",) if isinstance(message, Error) else ("step", "number")
    return all(getattr(message, name, 0) == getattr(request, name, 0) for name in names)
