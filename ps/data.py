"""The data socket's side of the server: chunks in, chunks out.

A reply that must wait stays parked as the frame in which its gradient came: memory is at most
workers × model. The core overwrites that frame with the parameters, and the frame goes back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import zmq

from ps._core import Outcome, Reply
from ps.config import ServerConfig
from ps.errors import (
    EvictedError,
    LayoutMismatchError,
    NonfiniteError,
    NotReadyError,
    ProtocolError,
    ResyncError,
    StoppingError,
    SupersededError,
    TooManyError,
    UnknownWorkerError,
)
from ps.layout import Layout
from ps.members import Members
from ps.metrics import Metrics
from ps.model import ServedModel
from ps.policy import Rule
from ps.wire.codecs import check_size, codec_for
from ps.wire.frames import error_message
from ps.wire.messages import Echo, Echoed, Init, Message, Ok, Params, Pull, Push, PushPull

Payload: TypeAlias = zmq.Frame | bytearray | bytes | None
Send: TypeAlias = Callable[[bytes, Message, Payload], None]


@dataclass(frozen=True, slots=True)
class Parked:
    """A request whose answer waits."""

    route: bytes
    request: PushPull | Push
    payload: Payload
    again: bool  # a duplicate: if it is answered at once, it was answered and counted before


class DataPlane:
    """Handles what comes over the data socket. One thread."""

    def __init__(
        self, config: ServerConfig, rule: Rule, members: Members, metrics: Metrics, send: Send
    ) -> None:
        self.model: ServedModel | None = None
        self.stopping: str = ""
        self._config: Final = config
        self._rule: Final = rule
        self._members: Final = members
        self._metrics: Final = metrics
        self._send: Final = send
        self._parked: dict[tuple[int, int], Parked] = {}  # by chunk and worker
        # By chunk and worker: the step that was refused last for a NaN, and how.
        self._nonfinite: dict[tuple[int, int], tuple[int, NonfiniteError]] = {}
        self._handlers: Final = {
            Init: self._on_init,
            PushPull: self._on_push,
            Push: self._on_push,
            Pull: self._on_pull,
            Echo: self._on_echo,
        }

    # Membership, told by the coordinator.

    def require_layout(self, layout: Layout) -> ServedModel:
        """The model of this layout: made now if it is the first, and the same ever after.

        Raises:
            LayoutMismatchError: another model than the run's.
        """
        if self.model is None:
            chunk_nbytes = self._config.chunk_kib * 1024
            self.model = ServedModel(
                layout, chunk_nbytes, self._config, self._rule, threads=self._config.threads
            )
        elif difference := self.model.layout.first_difference(layout):
            raise LayoutMismatchError(difference)
        return self.model

    def join(self, worker: int) -> int:
        """Counts this worker from now on; returns the number of its first step."""
        assert self.model is not None
        first_step = self.model.shard.first_step()
        self.model.shard.join(worker, first_step - 1)
        return first_step

    def leave(self, worker: int) -> None:
        """Nobody waits for this worker from now on; what waited only for it goes out."""
        if self.model is None or worker not in self.model.shard.workers():
            return
        for table in (self._parked, self._nonfinite):
            for key in [key for key in table if key[1] == worker]:
                del table[key]
        self._answer(self.model.shard.leave(worker))

    def stop(self, reason: str) -> None:
        """Answers everything that waits with `stopping`, and refuses pushes from now on."""
        self.stopping = reason
        for (chunk, worker), parked in self._parked.items():
            assert self.model is not None
            self.model.shard.unpark(chunk, worker)
            self._refuse(parked.route, parked.request, StoppingError(reason))
        self._parked.clear()

    @property
    def parked(self) -> int:
        return len(self._parked)

    # Messages.

    def handle(self, route: bytes, message: Message, payload: Payload) -> None:
        """Answers one message, now or when the policy lets it."""
        try:
            self._handlers[type(message)](route, message, payload)  # type: ignore[operator]
        except ProtocolError as error:
            self._refuse(route, message, error)

    def _on_echo(self, route: bytes, _: Echo, payload: Payload) -> None:
        self._send(route, Echoed(), payload)

    def _on_init(self, route: bytes, msg: Init, payload: Payload) -> None:
        model = self._require_model(msg)
        self._check(model, msg, payload)
        taken = model.shard.init(msg.chunk, _memory(payload))
        self._send(route, Ok(msg.worker, 0, msg.chunk, taken), None)

    def _on_pull(self, route: bytes, msg: Pull, _: Payload) -> None:
        model = self._require_model(msg)
        codec_for(msg.codec, model.chunk(msg.chunk))
        if not model.shard.initialized(msg.chunk):
            raise NotReadyError(f"chunk {msg.chunk} has no values yet")
        out = bytearray(model.chunks[msg.chunk].nbytes)
        version = model.shard.pull(msg.chunk, msg.worker or None, out)
        params = Params(msg.worker, 0, msg.chunk, msg.codec, version, 0, 0)
        self._send(route, params, out)

    def _on_push(self, route: bytes, msg: PushPull | Push, payload: Payload) -> None:
        model = self._require_model(msg)
        self._check(model, msg, payload)
        if self.stopping:
            raise StoppingError(self.stopping)
        if not self._metrics.started:
            raise NotReadyError(f"waiting for workers {self._members.missing[:20]}")
        self._require_answered(msg)
        key = (msg.chunk, msg.worker)
        if key in self._nonfinite and self._nonfinite[key][0] == msg.step:
            raise self._nonfinite[key][1]  # asked again: the first answer was lost
        result = model.shard.push(
            msg.chunk,
            msg.worker,
            msg.step,
            msg.samples,
            _memory(payload),
            isinstance(msg, PushPull),
        )
        self._require_taken(result.outcome, msg, result.clock)
        again = result.outcome is Outcome.DUPLICATE
        if again:
            self._metrics.duplicate(msg.worker, msg.chunk, msg.step)
        else:
            self._metrics.push(msg.worker, msg.chunk, msg.step, msg.samples)
        self._answer(result.replies, Parked(route, msg, payload, again))
        if result.nonfinite_index is not None:
            self._on_nonfinite(model, msg, result.nonfinite_index)

    def _on_nonfinite(self, model: ServedModel, msg: PushPull | Push, index: int) -> None:
        slot = model.layout.slot_at(model.chunks[msg.chunk], index)
        self._metrics.nonfinite(msg.worker, msg.chunk, msg.step, slot.name)
        if self._config.nonfinite == "raise":
            del self._parked[msg.chunk, msg.worker]
            error = NonfiniteError(
                f"step {msg.step} of worker {msg.worker}: slot {slot.name} has a NaN or an "
                "infinity in its gradient; nothing of its chunk was applied"
            )
            self._nonfinite[msg.chunk, msg.worker] = (msg.step, error)
            raise error

    # How it is done.

    def _require_model(self, msg: Init | PushPull | Push | Pull) -> ServedModel:
        self._members.require_current(msg.worker, msg.incarnation)
        if self.model is None:
            raise NotReadyError("no model yet: no worker has said hello")
        return self.model

    def _check(self, model: ServedModel, msg: Init | PushPull | Push, payload: Payload) -> None:
        if msg.worker == 0:
            raise UnknownWorkerError("an observer only reads")
        chunk = model.chunk(msg.chunk)
        assert payload is not None
        check_size(chunk, codec_for(msg.codec, chunk), len(payload))

    def _require_answered(self, msg: PushPull | Push) -> None:
        """A worker that ran ahead of its answers would fill the memory with parked frames."""
        waiting = self._parked.get((msg.chunk, msg.worker))
        if waiting is not None and msg.step == waiting.request.step + 1:
            raise TooManyError(
                f"chunk {msg.chunk}, worker {msg.worker}: step {waiting.request.step} still waits "
                f"for its answer, got step {msg.step}"
            )

    @staticmethod
    def _require_taken(outcome: Outcome, msg: PushPull | Push, clock: int) -> None:
        if outcome is Outcome.GAP:
            raise ResyncError(
                f"chunk {msg.chunk}, worker {msg.worker}: expected step {clock + 1}, "
                f"got {msg.step}",
                clock,
            )
        if outcome is Outcome.UNINITIALIZED:
            raise NotReadyError(f"chunk {msg.chunk} has no values yet: send init first")
        if outcome is Outcome.NOT_LIVE:
            raise EvictedError(f"worker {msg.worker}: not live; say hello again to go on")

    def _answer(self, replies: list[Reply], asked: Parked | None = None) -> None:
        """Sends what the core released, and parks what was just asked if it has to wait."""
        for reply in replies:
            if asked is not None and _answers(reply, asked.request):
                self._send_reply(reply, asked, is_counted=not asked.again)
                asked = None
            else:
                self._send_reply(reply, self._parked.pop((reply.chunk, reply.worker)))
        if asked is not None:
            self._park(asked)

    def _park(self, asked: Parked) -> None:
        key = (asked.request.chunk, asked.request.worker)
        before = self._parked.get(key)
        self._parked[key] = asked
        if before is not None:
            # Only a worker that lost its connection asks twice; the old route is dead or a copy.
            error = SupersededError(f"step {before.request.step} of chunk {key[0]}: asked again")
            self._refuse(before.route, before.request, error)

    def _send_reply(self, reply: Reply, parked: Parked, *, is_counted: bool = True) -> None:
        if is_counted:
            self._metrics.reply(reply)
        if isinstance(parked.request, Push):
            self._send(parked.route, Ok(reply.worker, reply.step, reply.chunk, True), None)
            return
        params = Params(
            reply.worker, reply.step, reply.chunk, parked.request.codec,
            reply.version, reply.lag, reply.staleness,
        )  # fmt: skip
        self._send(parked.route, params, parked.payload)

    def _refuse(self, route: bytes, msg: Message, error: ProtocolError) -> None:
        self._metrics.refused(error)
        worker, step, chunk = (getattr(msg, name, 0) for name in ("worker", "step", "chunk"))
        self._send(route, error_message(error, worker, step, chunk), None)


def _memory(payload: Payload) -> memoryview:
    """The bytes of a received frame; the frame stays theirs, and can be written to."""
    assert isinstance(payload, zmq.Frame)
    return payload.buffer


def _answers(reply: Reply, request: PushPull | Push) -> bool:
    return (reply.chunk, reply.worker, reply.step) == (
        request.chunk, request.worker, request.step,
    )  # fmt: skip
