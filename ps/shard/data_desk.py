"""Serves the data socket of one shard: hands pushes to its engine, and decides what is rare.

The engine (`leash.ps._core.ShardEngine`) takes the pushes of those who take part, from their bytes
to the bytes of their answers. What it does not take comes here: first values, pulls, segments,
tables of options, and whatever comes from a stranger. What it counts comes out in batches, which
`settle` hands to the metrics.
"""

import mmap
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

import zmq

from leash.ps._core import RecordKind, ShardEngine
from leash.ps.errors import (
    HeaderError,
    NonfiniteError,
    NotReadyError,
    ProtocolError,
    SegmentError,
    StoppingError,
    SupersededError,
    UnknownWorkerError,
)
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.recovery.healing import Healing
from leash.ps.shard.alignment import Alignment
from leash.ps.shard.identities import NOBODY, Identities
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics, conduct_of
from leash.ps.shard.model import NEWCOMER, ServedModel
from leash.ps.shard.options_of_workers import OptionsOfWorkers
from leash.ps.wire.codecs import check_size, codec_for
from leash.ps.wire.frames import DATA, check_payload_count, decode, encode, error_message
from leash.ps.wire.intake import Conduct
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import (
    Attach,
    Attached,
    Echo,
    Echoed,
    GroupOptions,
    Init,
    Message,
    Offer,
    Ok,
    OptionsSet,
    Publish,
    Pull,
    Push,
    PushPull,
)
from leash.ps.wire.segment import (
    RING_SHARDS,
    SegmentMap,
    file_of,
    nonce_of,
    open_pipe,
    open_segment,
)
from leash.ps.wire.sockets import Payload
from leash.ps.words import named_workers

# Sends a message to one peer: route, header, payload, and the worker whom a reply lets go on, or 0
# for everything else.
Send: TypeAlias = Callable[[bytes, bytes, Payload, int], None]
Frame: TypeAlias = zmq.Frame | bytes | bytearray | memoryview
FromMember: TypeAlias = Init | PushPull | Push | Pull | Publish | Offer | Attach | GroupOptions


class Rings(Protocol):
    """What serves the rings in the memory of workers; DataRouter does, where it has a lane."""

    def open_ring(
        self, worker: int, shard: int, segment: mmap.mmap, place: int, pipe: int, route: bytes,
        key: str,
    ) -> bytes:  # fmt: skip
        """Serves a worker's ring; returns its route."""
        ...

    def close_ring(self, worker: int) -> None:
        """Serves a worker's ring no longer, if it has one."""
        ...


class DataDesk:
    """Serves one data socket. For one thread.

    Attributes:
        model: this shard's part of it; None before the first hello.
        stopping: why training ends; empty while it goes on.
        rings: serves the rings of workers; None where their headers come by the socket alone.
    """

    def __init__(
        self, options: ServerOptions, rule: Rule, members: Members, metrics: Metrics, send: Send,
        shard: int = 0, now: Callable[[], float] = time.monotonic,
        identities: Identities | None = None,
    ) -> None:  # fmt: skip
        self.model: ServedModel | None = None
        self.stopping: str = ""
        self.rings: Rings | None = None
        self._engine: ShardEngine | None = None  # of the model
        self._options: Final = options
        self._rule = rule
        self._members: Final = members
        self._metrics: Final = metrics
        self._send: Final = send
        self._shard: Final = shard
        self._now: Final = now
        self._identities: Final = identities or Identities(None, members)
        # Worker ▸ incarnation and number of the `attach` that it sent last.
        self._attached: Final[dict[int, tuple[int, int]]] = {}
        self._files: Final[dict[int, tuple[int, int]]] = {}  # worker ▸ its segment
        self._group_options: Final = OptionsOfWorkers(options, metrics, tells=shard == 0)
        self._alignment: Final = Alignment()
        self._healing: Healing | None = None  # while it takes what workers offer
        # (chunk, worker) ▸ incarnation and number of what this worker published last.
        self._published: Final[dict[tuple[int, int], tuple[int, int]]] = {}
        self._handlers: Final = {
            Init: self._on_init,
            PushPull: self._on_push,
            Push: self._on_push,
            Pull: self._on_pull,
            Publish: self._on_publish,
            Offer: self._on_offer,
            Attach: self._on_attach,
            GroupOptions: self._on_options,
            Echo: self._on_echo,
        }

    @property
    def engine(self) -> ShardEngine | None:
        """What takes the pushes of those who take part; None as long as there is no model."""
        return self._engine

    # What the coordinator decides.

    def make_model(self, layout: Layout) -> None:
        """Makes this shard's part of a model of that layout, in place of the one that it has.

        Raises:
            LayoutError: the model does not fit into this host's memory.
        """
        for worker in self._attached:
            self._close_ring(worker)
        self.model = self._engine = None  # frees its memory first
        model = ServedModel(
            layout, self._options.chunk_nbytes, self._options, self._rule,
            softened=self._options, shard=self._shard, shards=self._options.shards,
            threads=self._options.threads,
        )  # fmt: skip
        self._engine, self.model = model.engine(), model
        self._tell_gate()

    def begin_healing(self, generation: int) -> None:
        """Takes what workers offer, until training starts.

        Args:
            generation: of the server that had the values which this shard has; 0 if it has none.
        """
        self._healing = Healing(generation)

    @property
    def healed_chunks(self) -> int:
        """How many chunks have got newer values from workers."""
        return 0 if self._healing is None else self._healing.chunks

    @property
    def least_step(self) -> int | None:
        """The smallest step over this shard's chunks whose answer they are; None without chunks."""
        steps = [self._step_of(chunk.index) for chunk in self.model.own] if self.model else []
        return min(steps, default=None)

    def skip_healed(self) -> None:
        """Counts the step as taken whose gradients are in the values of healed chunks.

        It is the one with which workers begin. A chunk that seems to be further has values of
        workers that were not in lockstep, and the steps of one say nothing of the others'.
        """
        assert self.model is not None
        for chunk in self.model.own:
            step = self._step_of(chunk.index)
            if step == self.model.shard.minimum(chunk.index) + 1:
                self.model.shard.skip_to(chunk.index, step)

    def _step_of(self, chunk: int) -> int:
        assert self.model is not None
        least = self.model.shard.minimum(chunk)
        return least if self._healing is None else max(least, self._healing.step_of(chunk))

    def admit(self, worker: int) -> None:
        """Takes messages of this worker, which has no step to push yet."""
        assert self._engine is not None
        self._admit(self._engine, worker)
        self._tell_gate()

    def reserve(self) -> int:
        """Keeps a place for a newcomer; returns a step that is new on every chunk, and remains so.

        The place is at the largest of the chunks' minimums, and no chunk gets beyond it.
        """
        assert self.model is not None
        if not self.model.own:
            return 1
        first_step = self.model.shard.first_step()
        self.model.shard.join(NEWCOMER, first_step - 1)
        return first_step

    def join(self, worker: int, first_step: int) -> None:
        """Counts this worker from now on, in the kept place or at a later step."""
        assert self.model is not None
        assert self._engine is not None
        self._admit(self._engine, worker)
        if self.model.own:
            self.model.shard.join(worker, first_step - 1)
            self._engine.leave(NEWCOMER, self._now())
        self._tell_gate()
        self._send_all()
        self.settle()

    def leave(self, worker: int) -> None:
        """Has nobody wait for this worker from now on; sends replies that waited only for it."""
        self._attached.pop(worker, None)
        self._files.pop(worker, None)
        self._close_ring(worker)
        self._group_options.forget(worker)
        for key in [key for key in self._published if key[1] == worker]:
            del self._published[key]
        if self.model is None or self._engine is None:
            return
        self._engine.expel(worker)
        if worker in self.model.shard.workers():
            self._engine.leave(worker, self._now())
        self._tell_gate()
        self._send_all()
        self.settle()

    def start(self) -> None:
        """Takes pushes from now on: training has begun, as the metrics know."""
        self._healing = None
        self._tell_gate()

    def set_rule(self, rule: Rule) -> None:
        """Goes by this rule from now on, and sends the replies that it releases."""
        self._rule = rule
        if self._engine is not None:
            self._engine.set_rule(rule.core(), self._now())
            self._send_all()
            self.settle()

    def give_up_rounds(self) -> None:
        """Ends a stall under backup: drops the rest of the steps that workers are in."""
        if self._engine is not None:
            self._engine.give_up_rounds(self._now())
            self._send_all()
            self.settle()

    def stop(self, reason: str) -> None:
        """Answers all parked requests with `stopping`, and refuses pushes from now on."""
        self.stopping = reason
        if self._engine is not None:
            self._engine.stop(reason)
            self._send_all()
            self.settle()

    def align(self, step: int) -> int | None:
        """Has the chunks of this shard come to one step, this one or a later one, and stay there.

        Call it again until they have. From then on `receive` must not be called; see `is_held`.

        Returns:
            The step at which all of them are; None if they are not there yet.
        """
        return self._alignment.begin(self.model, step)

    def go_on(self) -> None:
        """Lets the chunks go on, wherever they are."""
        self._alignment.end()

    @property
    def is_aligning(self) -> bool:
        """Whether the chunks are to come to one step, so that each message may be the last."""
        return self._alignment.is_asked_for

    @property
    def is_held(self) -> bool:
        """Whether all chunks have come to the step that `align` asked for."""
        return self._alignment.is_reached(self.model)

    @property
    def version(self) -> int:
        """How many updates this shard has seen; the largest over its chunks."""
        return 0 if self.model is None else self.model.version

    @property
    def parked(self) -> int:
        """How many requests wait for their reply."""
        return 0 if self._engine is None else self._engine.parked

    @property
    def waiting(self) -> list[int]:
        """The workers that wait for a reply, by rank."""
        return [] if self._engine is None else self._engine.waiting

    @property
    def initialized(self) -> bool:
        """Whether there is a model, and every chunk of this shard has its first values."""
        return self.model is not None and self.model.initialized

    # Messages.

    def receive(self, frames: Sequence[Frame], user: str = NOBODY) -> Conduct:
        """Handles one message of the socket. No message ends the run.

        Args:
            frames: of the message.
            user: the public key of its sender, if the socket takes those alone who have one.

        Returns:
            What it has shown of its sender.
        """
        conduct = Conduct.MEMBER
        try:
            try:
                taken = self._engine is not None and self._engine.receive(frames, self._now(), user)
            except Exception as error:
                taken, conduct = True, self._refuse(frames, _decoded(frames), error)
            if not taken:
                conduct = self._on_rare(frames, user)
            self._send_all()
        except Exception as error:  # at the answer itself
            self._metrics.fail("a message of the data socket could not be answered", error)
            return Conduct.FATAL
        return conduct

    def settle(self) -> None:
        """Hands what the engine has counted to the metrics, and its signs of life to the members.

        Call it before anybody looks at them.
        """
        engine = self._engine
        if engine is None or not engine.has_news:
            return
        for worker, heard_s in engine.take_heard():
            self._members.note_heard_at(worker, heard_s)
        metrics = self._metrics
        metrics.add_counts(engine.take_counts())
        for record in engine.take_records():
            match record.kind:
                case RecordKind.PUSH:
                    metrics.count_push(record.worker, record.step, record.samples, record.at_s)
                case RecordKind.REPLY:
                    metrics.count_reply(record)
                case RecordKind.DUPLICATE:
                    metrics.note_duplicate(record)
                case RecordKind.NONFINITE:
                    assert self.model is not None
                    metrics.note_nonfinite(record, self.model.layout.slots[record.slot].name)
                case RecordKind.OPTIONS_DIFFER:
                    metrics.note_different_options(record.step, [record.worker, record.other])

    def _send_all(self) -> None:
        if self._engine is not None:
            for message in self._engine.take_outgoing():
                self._send(*message)

    def _answer(self, route: bytes, message: Message, payload: Payload = None) -> None:
        self._send(route, encode(message), payload, 0)

    def _on_rare(self, frames: Sequence[Frame], user: str) -> Conduct:
        """Decides about a message that the engine does not take."""
        route, header, payloads = _bytes(frames[0]), _header(frames), frames[2:]
        message: Message | None = None
        try:
            decoded = decode(header, DATA)
            check_payload_count(decoded, len(payloads))
            message = decoded
            self._identities.require(message, user)
            handle = self._handlers[type(message)]
            handle(route, message, payloads[0] if payloads else None)  # type: ignore[operator]
        except Exception as error:
            return self._refuse(frames, message, error)
        return Conduct.STRANGER if isinstance(message, Echo) else Conduct.MEMBER

    def _refuse(
        self, frames: Sequence[Frame], message: Message | None, error: Exception
    ) -> Conduct:
        """Answers a message with an error, and counts it."""
        refusal = self._metrics.refusal(error)
        self._metrics.count_refusal(refusal)
        worker, step, chunk = (getattr(message, name, 0) for name in ("worker", "step", "chunk"))
        self._answer(_bytes(frames[0]), error_message(refusal, worker, step, chunk))
        return conduct_of(refusal.code)

    def _on_push(self, route: bytes, msg: PushPull | Push, payload: Payload) -> None:
        """Says why the engine did not take a push."""
        engine, model = self._require_trainer(msg)
        chunk = model.chunk(msg.chunk)
        codec_for(msg.codec, chunk)
        if isinstance(msg, PushPull) and msg.answer:
            codec_for(msg.answer, chunk)
        # A process that the members know, and this engine does not yet.
        key = self._members.workers[msg.worker].key
        engine.admit(msg.worker, msg.incarnation, key)
        frames = [route, encode(msg)] if payload is None else [route, encode(msg), payload]
        taken = engine.receive(frames, self._now(), key)
        assert taken, msg

    def _on_attach(self, route: bytes, msg: Attach, _: Payload) -> None:
        engine, model = self._require_trainer(msg)
        # One that comes late, over a connection that was lost, has a smaller number.
        this = (msg.incarnation, msg.number)
        if this < self._attached.get(msg.worker, this):
            raise SupersededError(f"worker {msg.worker}: attached again since")
        _require_size(msg.nbytes, model.layout)
        segment = open_segment(msg.pid, msg.fd, msg.nbytes)
        if nonce_of(segment) != msg.nonce:  # who has not written it may not have us write there
            raise SegmentError("by its nonce, there is other memory than this worker's")
        self._require_unshared(msg)
        ring_route = self._open_ring(route, msg, segment, model.layout)
        engine.attach(msg.worker, route, segment, ring_route)
        self._attached[msg.worker] = this
        has_ring = bool(ring_route)
        self._answer(route, Attached(msg.worker, nonce_of(segment), msg.number, has_ring))

    def _open_ring(self, route: bytes, msg: Attach, segment: mmap.mmap, layout: Layout) -> bytes:
        """Serves the ring that an `attach` offers; returns its route, which is empty for none."""
        self._close_ring(msg.worker)
        if self.rings is None or not msg.pipe or self._shard >= RING_SHARDS:
            return b""
        pipe = open_pipe(msg.pid, msg.pipe)
        place = SegmentMap(layout.nbytes, _has_outbox(msg.nbytes, layout)).rings
        key = self._members.workers[msg.worker].key
        return self.rings.open_ring(msg.worker, self._shard, segment, place, pipe, route, key)

    def _close_ring(self, worker: int) -> None:
        if self.rings is not None:
            self.rings.close_ring(worker)

    def _require_unshared(self, msg: Attach) -> None:
        """Notes whose this segment is, and refuses another worker's: answers go there."""
        file = file_of(msg.pid, msg.fd)
        for worker, taken in self._files.items():
            if taken == file and worker != msg.worker:
                raise SegmentError(f"this memory is that of worker {worker}")
        self._files[msg.worker] = file

    def _on_options(self, route: bytes, msg: GroupOptions, payload: Payload) -> None:
        engine, model = self._require_trainer(msg)
        table = self._group_options.take(model, msg, memory_of(payload))
        engine.note_options(msg.worker, msg.number, table)
        self._answer(route, OptionsSet(msg.worker, msg.number))

    def _on_echo(self, route: bytes, _: Echo, payload: Payload) -> None:
        self._answer(route, Echoed(), payload)

    def _on_init(self, route: bytes, msg: Init, payload: Payload) -> None:
        _, model = self._require_trainer(msg)
        _check_raw(model, msg, payload)
        try:
            taken = model.shard.init(msg.chunk, memory_of(payload))
        except ValueError as error:  # the size was checked before
            raise NonfiniteError(str(error)) from error
        self._answer(route, Ok(msg.worker, 0, msg.chunk, taken))

    def _on_publish(self, route: bytes, msg: Publish, payload: Payload) -> None:
        _, model = self._require_trainer(msg)
        chunk = _check_raw(model, msg, payload)
        self._require_started()
        # A copy that comes late must not undo the updates since.
        key, number = (msg.chunk, msg.worker), (msg.incarnation, msg.number)
        taken = key not in self._published or number > self._published[key]
        if taken:
            if not model.shard.initialized(msg.chunk):
                raise NotReadyError(f"chunk {msg.chunk} has no values yet: send init first")
            index = model.shard.publish(msg.chunk, memory_of(payload))
            if index is not None:
                slot = model.layout.slot_at(chunk, index)
                raise NonfiniteError(f"publish: slot {slot.name} has a NaN or an infinity")
            self._published[key] = number
            self._metrics.count_publish(msg.worker, msg.chunk)
        self._answer(route, Ok(msg.worker, 0, msg.chunk, taken, msg.number))

    def _on_offer(self, route: bytes, msg: Offer, payload: Payload) -> None:
        _, model = self._require_trainer(msg)
        _check_raw(model, msg, payload)
        healing, shard = self._healing, model.shard
        taken = healing is not None and healing.is_newer(msg, shard.version(msg.chunk))
        if healing is not None and taken:
            taken = shard.heal(msg.chunk, memory_of(payload), msg.version) is None
            if taken:
                healing.take(msg)
        self._answer(route, Ok(msg.worker, 0, msg.chunk, taken))

    def _on_pull(self, route: bytes, msg: Pull, _: Payload) -> None:
        engine, model = self._require_model(msg)
        codec = codec_for(msg.codec, model.chunk(msg.chunk))
        if codec.reply != codec.name:
            raise HeaderError(f"pull.codec: expected one for parameters, got {msg.codec}")
        if not model.shard.initialized(msg.chunk):
            raise NotReadyError(f"chunk {msg.chunk} has no values yet")
        engine.pull(route, msg.chunk, msg.worker or None, msg.codec, self._now())

    # How it is done.

    def _admit(self, engine: ShardEngine, worker: int) -> None:
        member = self._members.workers.get(worker)
        if member is not None:
            engine.admit(worker, member.incarnation, member.key)

    def _tell_gate(self) -> None:
        """Tells the engine whether it may take pushes, and why not."""
        if self._engine is None:
            return
        try:
            self._require_started()
        except ProtocolError as error:
            self._engine.refuse_pushes(error.code, str(error))
        else:
            self._engine.refuse_pushes("", "")

    def _require_started(self) -> None:
        if self.stopping:
            raise StoppingError(self.stopping)
        if not self._metrics.started:
            raise NotReadyError(f"waiting for {named_workers(self._members.missing[:20])}")

    def _require_model(self, msg: FromMember) -> tuple[ShardEngine, ServedModel]:
        self._members.require_current(msg.worker, msg.incarnation)
        if self.model is None or self._engine is None:
            raise NotReadyError("no model yet: no worker has said hello")
        return self._engine, self.model

    def _require_trainer(self, msg: FromMember) -> tuple[ShardEngine, ServedModel]:
        parts_of_it = self._require_model(msg)
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        return parts_of_it


def _check_raw(model: ServedModel, msg: Init | Publish | Offer, payload: Payload) -> Chunk:
    chunk = model.chunk(msg.chunk)
    check_size(chunk, codec_for(msg.codec, chunk), len(memory_of(payload)))
    if msg.codec != chunk.dtype:
        raise HeaderError(f"{msg.verb}.codec: expected {chunk.dtype}, got {msg.codec}")
    return chunk


def _require_size(nbytes: int, layout: Layout) -> None:
    """Raises SegmentError unless a segment of this model has so many bytes."""
    sizes = [SegmentMap(layout.nbytes, has_outbox).nbytes for has_outbox in (False, True)]
    if nbytes not in sizes:
        expected = " or ".join(map(str, sizes))
        raise SegmentError(f"expected a segment of {expected} bytes, got {nbytes}")


def _has_outbox(nbytes: int, layout: Layout) -> bool:
    return nbytes == SegmentMap(layout.nbytes, has_outbox=True).nbytes


def _decoded(frames: Sequence[Frame]) -> Message | None:
    """The message, if its header is one."""
    try:
        return decode(_header(frames), DATA)
    except Exception:
        return None


def _header(frames: Sequence[Frame]) -> bytes:
    return _bytes(frames[1]) if len(frames) > 1 else b""


def _bytes(frame: Frame) -> bytes:
    return frame.bytes if isinstance(frame, zmq.Frame) else bytes(frame)


def memory_of(payload: Payload) -> memoryview:
    """The bytes of a payload, without a copy."""
    assert payload is not None
    return payload.buffer if isinstance(payload, zmq.Frame) else memoryview(payload)
