"""Parks requests until their replies are released, joins replies of neighbours, and sends them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from leash.ps._core import Reply
from leash.ps.errors import ProtocolError, SupersededError
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.frames import error_message
from leash.ps.wire.messages import Message, Ok, Params, Push, PushPull
from leash.ps.wire.sockets import Payload

Send: TypeAlias = Callable[[bytes, Message, Payload], None]
ChunkAndWorker: TypeAlias = tuple[int, int]  # chunk and worker


@dataclass(frozen=True, slots=True)
class Parked:
    """A request for one chunk whose answer waits."""

    route: bytes
    request: PushPull | Push
    chunk: int
    payload: Payload  # the answer's
    codec: str  # the codec of that payload
    nbytes: int  # how many the parameters take, in that payload or in a segment
    again: bool  # the request is a duplicate, whose step was answered and counted before


class Replies:
    """Knows which requests have no answer yet, and sends the answers. For one thread."""

    def __init__(self, metrics: Metrics, send: Send) -> None:
        self._metrics: Final = metrics
        self._send: Final = send
        self._parked: dict[ChunkAndWorker, Parked] = {}
        self._unsent: list[
            tuple[bytes, Params]
        ] = []  # answers about segments, which may still be joined

    def __len__(self) -> int:
        return len(self._parked)

    def waiting(self, key: ChunkAndWorker) -> Parked | None:
        """The request that waits for this chunk and worker; None if there is none."""
        return self._parked.get(key)

    def drop(self, key: ChunkAndWorker) -> None:
        """Forgets a request, which gets another answer than a reply."""
        del self._parked[key]

    def forget(self, worker: int) -> None:
        """Forgets all requests of a worker that has gone."""
        for key in [key for key in self._parked if key[1] == worker]:
            del self._parked[key]

    def take_parked(self) -> list[Parked]:
        """Takes out all requests that wait."""
        parked, self._parked = list(self._parked.values()), {}
        return parked

    def answer(self, replies: list[Reply], asked: Parked | None = None) -> None:
        """Sends the replies that the core released; parks `asked` if its reply is not among them.

        Answers whose parameters lie in a segment go out with the next `flush`.
        """
        for reply in replies:
            if asked is not None and _answers(reply, asked):
                self._send_reply(reply, asked, is_counted=not asked.again)
                asked = None
            else:
                parked = self._parked.pop((reply.chunk, reply.worker))
                self._send_reply(reply, parked, is_counted=not parked.again)
        if asked is not None:
            self._park(asked)

    def flush(self) -> None:
        """Sends the answers about segments that have been joined."""
        unsent, self._unsent = self._unsent, []
        for route, params in unsent:
            self._send(route, params, None)

    def refuse(self, route: bytes, msg: Message, error: ProtocolError, chunk: int) -> None:
        """Answers a request with an error, and counts it."""
        self._metrics.count_refusal(error)
        worker, step = (getattr(msg, name, 0) for name in ("worker", "step"))
        self._send(route, error_message(error, worker, step, chunk), None)

    def _park(self, asked: Parked) -> None:
        key = (asked.chunk, asked.request.worker)
        before = self._parked.get(key)
        if before is not None and not before.again:
            asked = replace(asked, again=False)  # neither of the two requests was answered yet
        self._parked[key] = asked
        if before is not None:
            # Only a worker that lost its connection asks twice; the old route is dead, or a copy.
            error = SupersededError(f"step {before.request.step} of chunk {key[0]}: asked again")
            self.refuse(before.route, before.request, error, key[0])

    def _send_reply(self, reply: Reply, parked: Parked, *, is_counted: bool) -> None:
        if is_counted:
            self._metrics.count_reply(reply)
        if isinstance(parked.request, Push):
            self._send(parked.route, Ok(reply.worker, reply.step, reply.chunk, True), None)
            return
        params = Params(
            reply.worker, reply.step, reply.chunk, parked.codec,
            reply.version, reply.lag, reply.staleness,
        )  # fmt: skip
        if parked.request.has == reply.version + 1:
            self._send(parked.route, replace(params, unchanged=True), None)
            return
        self._metrics.own.bytes_answered += parked.nbytes
        if parked.payload is None:
            self._join(parked.route, params)
        else:
            self._send(parked.route, params, parked.payload)

    def _join(self, route: bytes, params: Params) -> None:
        """Joins this answer with the last one, if that is about the next chunk in the segment."""
        if self._unsent:
            last_route, last = self._unsent[-1]
            if last_route == route and _precedes(params, last):
                self._unsent[-1] = (route, _joined(last, params))
                return
        self._unsent.append((route, params))


def _answers(reply: Reply, asked: Parked) -> bool:
    return (reply.chunk, reply.worker, reply.step) == (
        asked.chunk, asked.request.worker, asked.request.step,
    )  # fmt: skip


def _precedes(params: Params, last: Params) -> bool:
    """Whether `params` is about the chunk just before those of `last`."""
    return (params.worker, params.step, params.chunk) == (
        last.worker, last.step, last.chunk - last.chunks,
    )  # fmt: skip


def _joined(last: Params, params: Params) -> Params:
    """Makes one answer of both, with the least version, and the largest lag and staleness."""
    return Params(
        last.worker, last.step, last.chunk, last.codec, min(last.version, params.version),
        max(last.lag, params.lag), max(last.staleness, params.staleness), last.chunks + 1,
    )  # fmt: skip
