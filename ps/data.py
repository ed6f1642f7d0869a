"""The data socket's side of the server: chunks in, chunks out.

A reply that must wait stays parked as the frame in which its gradient came: memory is at most
workers × model. The core overwrites that frame with the parameters, and the frame goes back. A
gradient in a worker's segment waits there, and only headers travel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import zmq

from ps._core import Outcome, PushResult, Reply
from ps.attachment import Attachment, Payload, Source
from ps.config import ServerConfig
from ps.errors import (
    EvictedError,
    HeaderError,
    NonfiniteError,
    NotReadyError,
    PayloadSizeError,
    ProtocolError,
    ResyncError,
    SegmentError,
    StoppingError,
    SupersededError,
    TooManyError,
    UnknownWorkerError,
)
from ps.layout import Chunk, Layout
from ps.members import Members
from ps.metrics import Metrics
from ps.model import ServedModel
from ps.policy import Rule
from ps.sockets import parts
from ps.wire.codecs import check_size, codec_for
from ps.wire.frames import DATA, check_payload_count, decode, error_message
from ps.wire.messages import (
    U32_MAX,
    Attach,
    Attached,
    Echo,
    Echoed,
    Init,
    Message,
    Ok,
    Params,
    Pull,
    Push,
    PushPull,
)

NEWCOMER: Final = U32_MAX  # no rank: holds a place between `reserve` and `join`
Send: TypeAlias = Callable[[bytes, Message, Payload], None]


@dataclass(frozen=True, slots=True)
class Parked:
    """A chunk's request whose answer waits."""

    route: bytes
    request: PushPull | Push
    chunk: int
    payload: Payload  # for the answer
    codec: str  # of that payload
    again: bool  # a duplicate: if it is answered at once, it was answered and counted before


class DataPlane:
    """Handles what comes over the data socket. One thread."""

    def __init__(
        self, config: ServerConfig, rule: Rule, members: Members, metrics: Metrics, send: Send,
        shard: int = 0,
    ) -> None:  # fmt: skip
        self.model: ServedModel | None = None
        self.stopping: str = ""
        self._config: Final = config
        self._rule: Final = rule
        self._members: Final = members
        self._metrics: Final = metrics
        self._send: Final = send
        self._shard: Final = shard
        self._attachments: dict[int, Attachment] = {}  # by worker
        self._parked: dict[tuple[int, int], Parked] = {}  # by chunk and worker
        self._unsent: list[tuple[bytes, Params]] = []  # answers from segments, yet to be joined
        # By chunk and worker: the step that was refused last for a NaN, and how.
        self._nonfinite: dict[tuple[int, int], tuple[int, NonfiniteError]] = {}
        self._handlers: Final = {
            Init: self._on_init,
            PushPull: self._on_push,
            Push: self._on_push,
            Pull: self._on_pull,
            Attach: self._on_attach,
            Echo: self._on_echo,
        }

    # Membership, told by the coordinator.

    def serve(self, layout: Layout) -> None:
        """Makes this shard's part of a model of that layout, instead of the one it has.

        Raises:
            LayoutError: it does not fit into this host's memory.
        """
        self.model = None  # its memory first
        self.model = ServedModel(
            layout, self._config.chunk_kib * 1024, self._config, self._rule,
            shard=self._shard, shards=self._config.shards, threads=self._config.threads,
        )  # fmt: skip

    def reserve(self) -> int:
        """Keeps a place for a newcomer; returns a step that is new on every chunk, and stays so.

        The place is at the largest of the chunks' minimums: none of them gets beyond it.
        """
        assert self.model is not None
        if not self.model.own:
            return 1
        first_step = self.model.shard.first_step()
        self.model.shard.join(NEWCOMER, first_step - 1)
        return first_step

    def join(self, worker: int, first_step: int) -> None:
        """Counts this worker from now on, in the place that was kept, or further on."""
        assert self.model is not None
        if self.model.own:
            self.model.shard.join(worker, first_step - 1)
            self._answer(self.model.shard.leave(NEWCOMER))
            self._send_joined()

    def leave(self, worker: int) -> None:
        """Nobody waits for this worker from now on; what waited only for it goes out."""
        self._attachments.pop(worker, None)
        if self.model is None or worker not in self.model.shard.workers():
            return
        for table in (self._parked, self._nonfinite):
            for key in [key for key in table if key[1] == worker]:
                del table[key]
        self._answer(self.model.shard.leave(worker))
        self._send_joined()

    def stop(self, reason: str) -> None:
        """Answers everything that waits with `stopping`, and refuses pushes from now on."""
        self.stopping = reason
        for (chunk, worker), parked in self._parked.items():
            assert self.model is not None
            self.model.shard.unpark(chunk, worker)
            self._refuse(parked.route, parked.request, StoppingError(reason), chunk)
        self._parked.clear()

    @property
    def parked(self) -> int:
        return len(self._parked)

    @property
    def initialized(self) -> bool:
        """There is a model, and every chunk of this shard has its first values."""
        return self.model is not None and self.model.initialized

    # Messages.

    def receive(self, frames: list[zmq.Frame]) -> None:
        """Takes one message from the socket: route, header, and what came after it."""
        route, header, payloads = parts(frames)
        try:
            message = decode(header, DATA)
            check_payload_count(message, len(payloads))
        except ProtocolError as error:
            self._metrics.refused(error)
            self._send(route, error_message(error), None)
        else:
            self.handle(route, message, payloads[0] if payloads else None)

    def handle(self, route: bytes, message: Message, payload: Payload) -> None:
        """Answers one message, now or when the policy lets it."""
        try:
            self._handlers[type(message)](route, message, payload)  # type: ignore[operator]
        except ProtocolError as error:
            self._refuse(route, message, error, getattr(message, "chunk", 0))
        self._send_joined()

    def _on_attach(self, route: bytes, msg: Attach, _: Payload) -> None:
        model = self._require_model(msg)
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        attachment = Attachment(msg, route, model.layout)
        self._attachments[msg.worker] = attachment
        self._send(route, Attached(msg.worker, attachment.nonce), None)

    def _on_echo(self, route: bytes, _: Echo, payload: Payload) -> None:
        self._send(route, Echoed(), payload)

    def _on_init(self, route: bytes, msg: Init, payload: Payload) -> None:
        model = self._require_model(msg)
        chunk = self._check(model, msg, payload)
        if msg.codec != chunk.dtype:
            raise HeaderError(f"init.codec: expected {chunk.dtype}, got {msg.codec}")
        taken = model.shard.init(msg.chunk, _memory(payload))
        self._send(route, Ok(msg.worker, 0, msg.chunk, taken), None)

    def _on_pull(self, route: bytes, msg: Pull, _: Payload) -> None:
        model = self._require_model(msg)
        chunk = model.chunk(msg.chunk)
        codec = codec_for(msg.codec, chunk)
        if codec.reply != codec.name:
            raise HeaderError(f"pull.codec: expected one for parameters, got {msg.codec}")
        if not model.shard.initialized(msg.chunk):
            raise NotReadyError(f"chunk {msg.chunk} has no values yet")
        out = bytearray(codec.max_nbytes(chunk.values))
        version = model.shard.pull(msg.chunk, msg.worker or None, out, codec=codec.core)
        params = Params(msg.worker, 0, msg.chunk, msg.codec, version, 0, 0)
        self._send(route, params, out)

    def _on_push(self, route: bytes, msg: PushPull | Push, payload: Payload) -> None:
        model = self._require_model(msg)
        if payload is not None:
            pushes = [(msg.chunk, self._in_frame(model, msg, payload))]
        else:
            assert isinstance(msg, PushPull)
            pushes = self._in_segment(model, route, msg)
        if self.stopping:
            raise StoppingError(self.stopping)
        if not self._metrics.started:
            raise NotReadyError(f"waiting for workers {self._members.missing[:20]}")
        if isinstance(msg, PushPull) and msg.chunks > 1 and self._is_plain(msg):
            self._push_run(model, route, msg)
            return
        for chunk, source in pushes:
            self._push_or_refuse(model, route, msg, chunk, source)

    def _in_frame(self, model: ServedModel, msg: PushPull | Push, payload: Payload) -> Source:
        """A gradient that came with its message: parameters that fit go back in its frame."""
        chunk = self._check(model, msg, payload)
        if isinstance(msg, PushPull) and (msg.chunks, msg.slab, msg.nbytes) != (1, 0, 0):
            raise HeaderError("push_pull: expected no chunks, slab and nbytes beside a payload")
        codec, memory = codec_for(msg.codec, chunk), _memory(payload)
        if codec.reply == codec.name or isinstance(msg, Push):
            return Source(memory, codec.core, None, payload, codec.reply)
        answer = np.empty(chunk.nbytes, np.uint8).data
        return Source(memory, codec.core, answer, answer, codec.reply)

    def _in_segment(
        self, model: ServedModel, route: bytes, msg: PushPull
    ) -> list[tuple[int, Source]]:
        """The gradients of a worker's memory: their parameters go to the same slab.

        All chunks are checked before any is applied.
        """
        attachment = self._require_attachment(route, msg)
        most = 1 if msg.nbytes else msg.chunk + 1
        if not 1 <= msg.chunks <= most:
            raise HeaderError(f"push_pull.chunks: expected 1 to {most}, got {msg.chunks}")
        chunks = [model.chunk(index) for index in _run(msg)]
        return [(chunk.index, attachment.source(chunk, msg)) for chunk in chunks]

    def _push_or_refuse(
        self, model: ServedModel, route: bytes, msg: PushPull | Push, chunk: int, source: Source
    ) -> None:
        try:
            self._push(model, route, msg, chunk, source)
        except ProtocolError as error:
            self._refuse(route, msg, error, chunk)

    def _push(
        self, model: ServedModel, route: bytes, msg: PushPull | Push, chunk: int, source: Source
    ) -> None:
        self._require_answered(msg, chunk)
        key = (chunk, msg.worker)
        if key in self._nonfinite and self._nonfinite[key][0] == msg.step:
            raise self._nonfinite[key][1]  # asked again: the first answer was lost
        try:
            result = model.shard.push(
                chunk, msg.worker, msg.step, msg.samples, source.memory,
                isinstance(msg, PushPull), codec=source.codec, answer=source.answer,
            )  # fmt: skip
        except ValueError as error:
            raise PayloadSizeError(f"chunk {chunk}: {error}") from error
        asked = Parked(route, msg, chunk, source.reply, source.reply_codec, _is_duplicate(result))
        self._settle(model, asked, result)

    def _is_plain(self, msg: PushPull) -> bool:
        """None of its chunks needs a closer look, so that one call takes them all."""
        keys = [(chunk, msg.worker) for chunk in _run(msg)]
        return self._parked.keys().isdisjoint(keys) and self._nonfinite.keys().isdisjoint(keys)

    def _push_run(self, model: ServedModel, route: bytes, msg: PushPull) -> None:
        last, first = model.chunk(msg.chunk), model.chunk(msg.chunk - msg.chunks + 1)
        region = self._attachments[msg.worker].region(first, last, msg.slab)
        results = model.shard.push_run(
            msg.chunk, msg.chunks, msg.worker, msg.step, msg.samples, region, True
        )
        for chunk, result in zip(_run(msg), results, strict=True):
            asked = Parked(route, msg, chunk, None, last.dtype, _is_duplicate(result))
            try:
                self._settle(model, asked, result)
            except ProtocolError as error:
                self._refuse(route, msg, error, chunk)

    def _settle(self, model: ServedModel, asked: Parked, result: PushResult) -> None:
        """What a push of a chunk has set off."""
        msg, chunk = asked.request, asked.chunk
        self._require_taken(result.outcome, msg, chunk, result.clock)
        if asked.again:
            self._metrics.duplicate(msg.worker, chunk, msg.step)
        else:
            self._metrics.push(msg.worker, chunk, msg.step, msg.samples)
        self._answer(result.replies, asked)
        if result.nonfinite_index is not None:
            self._on_nonfinite(model, msg, chunk, result.nonfinite_index)

    def _on_nonfinite(
        self, model: ServedModel, msg: PushPull | Push, chunk: int, index: int
    ) -> None:
        slot = model.layout.slot_at(model.chunk(chunk), index)
        self._metrics.nonfinite(msg.worker, chunk, msg.step, slot.name)
        if self._config.nonfinite == "raise":
            del self._parked[chunk, msg.worker]
            error = NonfiniteError(
                f"step {msg.step} of worker {msg.worker}: slot {slot.name} has a NaN or an "
                "infinity in its gradient; nothing of its chunk was applied"
            )
            self._nonfinite[chunk, msg.worker] = (msg.step, error)
            raise error

    # How it is done.

    def _require_model(self, msg: Init | PushPull | Push | Pull | Attach) -> ServedModel:
        self._members.require_current(msg.worker, msg.incarnation)
        if self.model is None:
            raise NotReadyError("no model yet: no worker has said hello")
        return self.model

    def _check(self, model: ServedModel, msg: Init | PushPull | Push, payload: Payload) -> Chunk:
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        chunk = model.chunk(msg.chunk)
        assert payload is not None
        check_size(chunk, codec_for(msg.codec, chunk), len(payload))
        return chunk

    def _require_attachment(self, route: bytes, msg: PushPull) -> Attachment:
        attachment = self._attachments.get(msg.worker)
        if attachment is None:
            raise SegmentError(f"worker {msg.worker}: expected a payload, or attach before")
        if attachment.route != route:
            raise SupersededError(f"worker {msg.worker}: attached over another connection")
        attachment.check(msg)
        return attachment

    def _require_answered(self, msg: PushPull | Push, chunk: int) -> None:
        """A worker that ran ahead of its answers would fill the memory with parked frames."""
        waiting = self._parked.get((chunk, msg.worker))
        if waiting is not None and msg.step == waiting.request.step + 1:
            raise TooManyError(
                f"chunk {chunk}, worker {msg.worker}: step {waiting.request.step} still waits "
                f"for its answer, got step {msg.step}"
            )

    @staticmethod
    def _require_taken(outcome: Outcome, msg: PushPull | Push, chunk: int, clock: int) -> None:
        if outcome is Outcome.GAP:
            raise ResyncError(
                f"chunk {chunk}, worker {msg.worker}: expected step {clock + 1}, got {msg.step}",
                clock,
            )
        if outcome is Outcome.UNINITIALIZED:
            raise NotReadyError(f"chunk {chunk} has no values yet: send init first")
        if outcome is Outcome.NOT_LIVE:
            raise EvictedError(f"worker {msg.worker}: not live; say hello again to go on")

    def _answer(self, replies: list[Reply], asked: Parked | None = None) -> None:
        """Sends what the core released, and parks what was just asked if it has to wait."""
        for reply in replies:
            if asked is not None and _answers(reply, asked):
                self._send_reply(reply, asked, is_counted=not asked.again)
                asked = None
            else:
                self._send_reply(reply, self._parked.pop((reply.chunk, reply.worker)))
        if asked is not None:
            self._park(asked)

    def _park(self, asked: Parked) -> None:
        key = (asked.chunk, asked.request.worker)
        before = self._parked.get(key)
        self._parked[key] = asked
        if before is not None:
            # Only a worker that lost its connection asks twice; the old route is dead or a copy.
            error = SupersededError(f"step {before.request.step} of chunk {key[0]}: asked again")
            self._refuse(before.route, before.request, error, key[0])

    def _send_reply(self, reply: Reply, parked: Parked, *, is_counted: bool = True) -> None:
        if is_counted:
            self._metrics.reply(reply)
        if isinstance(parked.request, Push):
            self._send(parked.route, Ok(reply.worker, reply.step, reply.chunk, True), None)
            return
        params = Params(
            reply.worker, reply.step, reply.chunk, parked.codec,
            reply.version, reply.lag, reply.staleness,
        )  # fmt: skip
        if parked.payload is None:
            self._join(parked.route, params)
        else:
            self._send(parked.route, params, parked.payload)

    def _join(self, route: bytes, params: Params) -> None:
        """Answers about neighbours in a segment go out as one."""
        if self._unsent:
            last_route, last = self._unsent[-1]
            if last_route == route and _precedes(params, last):
                self._unsent[-1] = (route, _joined(last, params))
                return
        self._unsent.append((route, params))

    def _send_joined(self) -> None:
        unsent, self._unsent = self._unsent, []
        for route, params in unsent:
            self._send(route, params, None)

    def _refuse(self, route: bytes, msg: Message, error: ProtocolError, chunk: int = 0) -> None:
        self._metrics.refused(error)
        worker, step = (getattr(msg, name, 0) for name in ("worker", "step"))
        self._send(route, error_message(error, worker, step, chunk), None)


def _memory(payload: Payload) -> memoryview:
    """The bytes of a received frame; the frame stays theirs, and can be written to."""
    assert isinstance(payload, zmq.Frame)
    return payload.buffer


def _run(msg: PushPull) -> range:
    return range(msg.chunk, msg.chunk - msg.chunks, -1)


def _is_duplicate(result: PushResult) -> bool:
    return result.outcome is Outcome.DUPLICATE


def _answers(reply: Reply, asked: Parked) -> bool:
    return (reply.chunk, reply.worker, reply.step) == (
        asked.chunk, asked.request.worker, asked.request.step,
    )  # fmt: skip


def _precedes(params: Params, last: Params) -> bool:
    """`params` is about the chunk just before those of `last`."""
    return (params.worker, params.step, params.chunk) == (
        last.worker, last.step, last.chunk - last.chunks,
    )  # fmt: skip


def _joined(last: Params, params: Params) -> Params:
    """One answer for both: its version is the least, its lag and staleness the largest."""
    return Params(
        last.worker, last.step, last.chunk, last.codec, min(last.version, params.version),
        max(last.lag, params.lag), max(last.staleness, params.staleness), last.chunks + 1,
    )  # fmt: skip
