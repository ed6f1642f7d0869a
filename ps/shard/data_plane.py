"""Handles the messages of a data socket: gradients come in, parameters go out.

A request whose reply must wait stays parked, with the frame in which its gradient came, so parked
frames take at most workers × model of memory. The core overwrites that frame with the parameters,
and the frame goes back. For a gradient in a worker's segment only headers travel.
"""

import time
from collections.abc import Callable
from typing import Final

import zmq

from leash.ps._core import Outcome, PushResult
from leash.ps.errors import (
    EvictedError,
    FrameCountError,
    HeaderError,
    NonfiniteError,
    NotReadyError,
    PayloadSizeError,
    ResyncError,
    SegmentError,
    StoppingError,
    SupersededError,
    TooManyError,
    UnknownWorkerError,
)
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.shard.alignment import Alignment
from leash.ps.shard.mapped_segments import (
    Attachment,
    GradientSource,
    memory_of,
    source_in_frame,
    source_of_nothing,
)
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import NEWCOMER, ServedModel
from leash.ps.shard.options_of_workers import OptionsOfWorkers
from leash.ps.shard.replies import Parked, Replies, Send
from leash.ps.wire.codecs import check_size, codec_for
from leash.ps.wire.frames import DATA, check_payload_count, decode, error_message
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import (
    Attach,
    Attached,
    Echo,
    Echoed,
    GroupOptions,
    Init,
    Message,
    Ok,
    OptionsSet,
    Params,
    Publish,
    Pull,
    Push,
    PushPull,
)
from leash.ps.wire.sockets import Payload, parts

NOT_GATHERED: Final = "has a NaN or an infinity in what was pushed; nothing of its chunk was taken"
LEFT_OUT: Final = (
    "would have a NaN or an infinity after its update; the block of 1,024 values with it was left "
    "out, the rest was applied"
)


class DataPlane:
    """Handles the messages of one data socket. For one thread."""

    def __init__(
        self, options: ServerOptions, rule: Rule, members: Members, metrics: Metrics, send: Send,
        shard: int = 0, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.model: ServedModel | None = None
        self.stopping: str = ""
        self._options: Final = options
        self._rule = rule
        self._members: Final = members
        self._metrics: Final = metrics
        self._send: Final = send
        self._shard: Final = shard
        self._now: Final = now
        self._attachments: dict[int, Attachment] = {}  # worker ▸ its segment
        self._group_options: Final = OptionsOfWorkers(options, metrics, tells=shard == 0)
        self._replies: Final = Replies(metrics, send)
        self._alignment: Final = Alignment()
        # (chunk, worker) ▸ the step that was refused last for a NaN, and the error.
        self._nonfinite: dict[tuple[int, int], tuple[int, NonfiniteError]] = {}
        # (chunk, worker) ▸ incarnation and number of what this worker published last.
        self._published: dict[tuple[int, int], tuple[int, int]] = {}
        self._handlers: Final = {
            Init: self._on_init,
            PushPull: self._on_push,
            Push: self._on_push,
            Pull: self._on_pull,
            Publish: self._on_publish,
            Attach: self._on_attach,
            GroupOptions: self._on_options,
            Echo: self._on_echo,
        }

    # What the coordinator decides.

    def make_model(self, layout: Layout) -> None:
        """Makes this shard's part of a model of that layout, in place of the one that it has.

        Raises:
            LayoutError: the model does not fit into this host's memory.
        """
        self.model = None  # frees its memory first
        self.model = ServedModel(
            layout, self._options.chunk_nbytes, self._options, self._rule,
            softened=self._options, shard=self._shard, shards=self._options.shards,
            threads=self._options.threads,
        )  # fmt: skip

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
        if self.model.own:
            self.model.shard.join(worker, first_step - 1)
            self._replies.answer(self.model.shard.leave(NEWCOMER))
            self._replies.flush()

    def leave(self, worker: int) -> None:
        """Has nobody wait for this worker from now on; sends replies that waited only for it."""
        self._attachments.pop(worker, None)
        self._group_options.forget(worker)
        if self.model is None or worker not in self.model.shard.workers():
            return
        self._replies.forget(worker)
        for key in [key for key in self._nonfinite if key[1] == worker]:
            del self._nonfinite[key]
        for key in [key for key in self._published if key[1] == worker]:
            del self._published[key]
        self._replies.answer(self.model.shard.leave(worker))
        self._note_overflows(self.model)
        self._replies.flush()

    def set_rule(self, rule: Rule) -> None:
        """Goes by this rule from now on, and sends the replies that it releases."""
        if self.model is not None:
            self._replies.answer(self.model.shard.set_rule(rule.core()))
            self._note_overflows(self.model)
        self._rule = rule
        if self.model is not None:
            self._replies.flush()

    def stop(self, reason: str) -> None:
        """Answers all parked requests with `stopping`, and refuses pushes from now on."""
        self.stopping = reason
        for parked in self._replies.take_parked():
            assert self.model is not None
            self.model.shard.unpark(parked.chunk, parked.request.worker)
            self._replies.refuse(
                parked.route, parked.request, StoppingError(reason), parked.chunk
            )  # fmt: skip

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
        return len(self._replies)

    @property
    def initialized(self) -> bool:
        """Whether there is a model, and every chunk of this shard has its first values."""
        return self.model is not None and self.model.initialized

    # Messages.

    def receive(self, frames: list[zmq.Frame]) -> None:
        """Handles one message of the socket, given as its frames."""
        route, header, payloads = parts(frames)
        try:
            message = decode(header, DATA)
            check_payload_count(message, len(payloads))
        except Exception as error:
            refusal = self._metrics.refusal(error)
            self._metrics.count_refusal(refusal)
            self._send(route, error_message(refusal), None)
        else:
            self.handle(route, message, payloads[0] if payloads else None)

    def handle(self, route: bytes, message: Message, payload: Payload) -> None:
        """Answers one message, now or when the policy lets it. No message ends the run."""
        try:
            self._handlers[type(message)](route, message, payload)  # type: ignore[operator]
        except Exception as error:
            refusal = self._metrics.refusal(error)
            self._replies.refuse(route, message, refusal, getattr(message, "chunk", 0))
        self._replies.flush()

    def _on_attach(self, route: bytes, msg: Attach, _: Payload) -> None:
        model = self._require_model(msg)
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        before = self._attachments.get(msg.worker)
        if before is not None and before.is_newer_than(msg):
            raise SupersededError(f"worker {msg.worker}: attached again since")
        attachment = Attachment(msg, route, model.layout)
        self._attachments[msg.worker] = attachment
        self._send(route, Attached(msg.worker, attachment.nonce, msg.number), None)

    def _on_options(self, route: bytes, msg: GroupOptions, payload: Payload) -> None:
        model = self._require_model(msg)
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        assert payload is not None
        self._group_options.take(model, msg, memory_of(payload))
        self._send(route, OptionsSet(msg.worker, msg.number), None)

    def _on_echo(self, route: bytes, _: Echo, payload: Payload) -> None:
        self._send(route, Echoed(), payload)

    def _on_init(self, route: bytes, msg: Init, payload: Payload) -> None:
        model = self._require_model(msg)
        self._check_raw(model, msg, payload)
        try:
            taken = model.shard.init(msg.chunk, memory_of(payload))
        except ValueError as error:  # the size was checked before
            raise NonfiniteError(str(error)) from error
        self._send(route, Ok(msg.worker, 0, msg.chunk, taken), None)

    def _on_publish(self, route: bytes, msg: Publish, payload: Payload) -> None:
        model = self._require_model(msg)
        chunk = self._check_raw(model, msg, payload)
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
        self._send(route, Ok(msg.worker, 0, msg.chunk, taken, msg.number), None)

    def _on_pull(self, route: bytes, msg: Pull, _: Payload) -> None:
        model = self._require_model(msg)
        chunk = model.chunk(msg.chunk)
        codec = codec_for(msg.codec, chunk)
        if codec.reply != codec.name:
            raise HeaderError(f"pull.codec: expected one for parameters, got {msg.codec}")
        if not model.shard.initialized(msg.chunk):
            raise NotReadyError(f"chunk {msg.chunk} has no values yet")
        out = bytearray(codec.max_nbytes(chunk.values))
        version, replies = model.shard.pull(msg.chunk, msg.worker or None, out, codec=codec.core)
        params = Params(msg.worker, 0, msg.chunk, msg.codec, version, 0, 0)
        self._send(route, params, out)
        self._replies.answer(replies)  # to workers that waited for this one to pull

    def _on_push(self, route: bytes, msg: PushPull | Push, payload: Payload) -> None:
        """Checks all that a push names, then has the core apply it."""
        model = self._require_model(msg)
        self._group_options.require(model, msg, averages=self._rule.policy.average)
        if payload is not None:
            chunk = self._check(model, msg, payload)
            if msg.absent:
                _check_absent(model, chunk, msg)
            source = source_in_frame(msg, chunk, payload)
            self._require_started()
            self._push(model, route, msg, chunk.index, source)
            return
        if isinstance(msg, Push) or msg.absent:
            chunk = model.chunk(msg.chunk)
            if _check_absent(model, chunk, msg):
                source = self._source_of_nothing(route, msg, chunk)
                self._require_started()
                self._push(model, route, msg, chunk.index, source)
                return
            if isinstance(msg, Push):
                raise FrameCountError("push: expected a payload, since not all slots are absent")
        attachment = self._require_attachment(route, msg)
        chunks = self._chunks_in_segment(model, msg)
        attachment.check(chunks, msg)
        if msg.absent:
            _check_absent(model, chunks[0], msg)
        self._require_started()
        if len(chunks) > 1 and self._is_plain(msg):
            self._push_run(model, route, msg, attachment.region(chunks[-1], chunks[0], msg.slab))
            return
        for chunk in chunks:
            self._push_or_refuse(model, route, msg, chunk.index, attachment.source(chunk, msg))

    def _source_of_nothing(
        self, route: bytes, msg: PushPull | Push, chunk: Chunk
    ) -> GradientSource:
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        if isinstance(msg, PushPull) and msg.worker in self._attachments:
            return self._require_attachment(route, msg).place(chunk, msg)
        return source_of_nothing(chunk)

    @staticmethod
    def _chunks_in_segment(model: ServedModel, msg: PushPull) -> list[Chunk]:
        most = 1 if msg.nbytes or msg.absent else msg.chunk + 1
        if not 1 <= msg.chunks <= most:
            raise HeaderError(f"push_pull.chunks: expected 1 to {most}, got {msg.chunks}")
        return [model.chunk(index) for index in _run(msg)]

    def _push_or_refuse(
        self,
        model: ServedModel,
        route: bytes,
        msg: PushPull | Push,
        chunk: int,
        source: GradientSource,
    ) -> None:
        try:
            self._push(model, route, msg, chunk, source)
        except Exception as error:
            self._replies.refuse(route, msg, self._metrics.refusal(error), chunk)

    def _push(
        self,
        model: ServedModel,
        route: bytes,
        msg: PushPull | Push,
        chunk: int,
        source: GradientSource,
    ) -> None:
        self._require_answered(msg, chunk)
        self._metrics.own.bytes_pushed += source.memory.nbytes if source.memory is not None else 0
        key = (chunk, msg.worker)
        if key in self._nonfinite and self._nonfinite[key][0] == msg.step:
            raise self._nonfinite[key][1]  # the worker asks again because it lost the first answer
        try:
            result = model.shard.push(
                chunk, msg.worker, msg.step, msg.samples, source.memory,
                isinstance(msg, PushPull), codec=source.codec, answer=source.answer,
                now_s=self._now(), absent=msg.absent,
            )  # fmt: skip
        except ValueError as error:
            raise PayloadSizeError(f"chunk {chunk}: {error}") from error
        answer = source.memory if source.answer is None else source.answer
        nbytes = answer.nbytes if answer is not None else 0
        asked = Parked(
            route, msg, chunk, source.reply, source.reply_codec, nbytes, _is_duplicate(result)
        )
        self._settle(model, asked, result)

    def _is_plain(self, msg: PushPull) -> bool:
        """Whether none of its chunks needs a closer look, so that one call can take them all."""
        if msg.absent:
            return False
        keys = [(chunk, msg.worker) for chunk in _run(msg)]
        return self._nonfinite.keys().isdisjoint(keys) and not any(map(self._replies.waiting, keys))

    def _push_run(
        self, model: ServedModel, route: bytes, msg: PushPull, region: memoryview
    ) -> None:
        self._metrics.own.bytes_pushed += region.nbytes
        results = model.shard.push_run(
            msg.chunk, msg.chunks, msg.worker, msg.step, msg.samples, region, True, self._now()
        )
        for chunk, result in zip(_run(msg), results, strict=True):
            nbytes = model.chunks[chunk].nbytes
            asked = Parked(route, msg, chunk, None, msg.codec, nbytes, _is_duplicate(result))
            try:
                self._settle(model, asked, result)
            except Exception as error:  # the chunks after it have answers for others
                self._replies.refuse(route, msg, self._metrics.refusal(error), chunk)

    def _settle(self, model: ServedModel, asked: Parked, result: PushResult) -> None:
        """Counts a push of one chunk, and sends or parks the replies that follow from it."""
        msg, chunk = asked.request, asked.chunk
        self._require_taken(result.outcome, msg, chunk, result.clock)
        if asked.again:
            self._metrics.count_duplicate(msg.worker, chunk, msg.step)
        else:
            self._metrics.count_push(msg.worker, chunk, msg.step, msg.samples)
        self._replies.answer(result.replies, asked)
        self._note_overflows(model)
        if result.nonfinite_index is not None:
            self._on_nonfinite(model, msg, chunk, result.nonfinite_index)

    def _on_nonfinite(
        self, model: ServedModel, msg: PushPull | Push, chunk: int, index: int
    ) -> None:
        slot = model.layout.slot_at(model.chunk(chunk), index)
        self._metrics.count_nonfinite(msg.worker, chunk, msg.step, slot.name)
        if self._options.nonfinite == "raise":
            self._replies.drop((chunk, msg.worker))
            is_gathered = self._rule.policy.average or model.chunk(chunk).kind == "buffer"
            error = NonfiniteError(
                f"step {msg.step} of worker {msg.worker}: slot {slot.name} "
                + (NOT_GATHERED if is_gathered else LEFT_OUT)
            )
            self._nonfinite[chunk, msg.worker] = (msg.step, error)
            raise error

    def _note_overflows(self, model: ServedModel) -> None:
        """Tells of the means that would have overflowed, though no gradient of theirs did."""
        if not self._rule.policy.average:
            return
        for overflow in model.shard.take_overflows():
            slot = model.layout.slot_at(model.chunk(overflow.chunk), overflow.index)
            self._metrics.count_nonfinite(0, overflow.chunk, overflow.step, slot.name)

    # How it is done.

    def _require_model(
        self, msg: Init | PushPull | Push | Pull | Publish | Attach | GroupOptions
    ) -> ServedModel:
        self._members.require_current(msg.worker, msg.incarnation)
        if self.model is None:
            raise NotReadyError("no model yet: no worker has said hello")
        return self.model

    def _check_raw(self, model: ServedModel, msg: Init | Publish, payload: Payload) -> Chunk:
        chunk = self._check(model, msg, payload)
        if msg.codec != chunk.dtype:
            raise HeaderError(f"{msg.verb}.codec: expected {chunk.dtype}, got {msg.codec}")
        return chunk

    def _check(
        self, model: ServedModel, msg: Init | PushPull | Push | Publish, payload: Payload
    ) -> Chunk:
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        chunk = model.chunk(msg.chunk)
        assert payload is not None
        check_size(chunk, codec_for(msg.codec, chunk), len(payload))
        return chunk

    def _require_started(self) -> None:
        if self.stopping:
            raise StoppingError(self.stopping)
        if not self._metrics.started:
            raise NotReadyError(f"waiting for workers {self._members.missing[:20]}")

    def _require_attachment(self, route: bytes, msg: PushPull) -> Attachment:
        attachment = self._attachments.get(msg.worker)
        if attachment is None:
            raise SegmentError(f"worker {msg.worker}: expected a payload, or attach before")
        if attachment.route != route:
            raise SupersededError(f"worker {msg.worker}: attached over another connection")
        return attachment

    def _require_answered(self, msg: PushPull | Push, chunk: int) -> None:
        """Refuses a push ahead of its answers: such pushes would fill the memory with frames."""
        waiting = self._replies.waiting((chunk, msg.worker))
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


def _check_absent(model: ServedModel, chunk: Chunk, msg: PushPull | Push) -> bool:
    """Checks the slots that a push names as absent; says whether they are all that it could have.

    Raises:
        HeaderError: they are not slots of this chunk, or the chunk holds buffers.
    """
    count = model.slots_in(chunk)
    absent = int.from_bytes(msg.absent, "little")
    most = (1 << count) - 1
    if absent > most or (absent and chunk.kind == "buffer"):
        expected = "none of a buffer" if chunk.kind == "buffer" else f"bits of {count} slots"
        raise HeaderError(f"{msg.verb}.absent: expected {expected}, got {msg.absent.hex():.40}")
    return bool(absent) and absent == most


def _run(msg: PushPull) -> range:
    return range(msg.chunk, msg.chunk - msg.chunks, -1)


def _is_duplicate(result: PushResult) -> bool:
    return result.outcome is Outcome.DUPLICATE
