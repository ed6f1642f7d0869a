"""A shard beside the coordinator, as the coordinator sees it: messages in, answers and notices out.

It knows neither the link nor the data socket. leash.ps.shard.process carries its messages between
processes; see leash.ps.wire.shard_messages for what they say.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgpack
import numpy as np

from leash.ps.options.server import ServerOptions
from leash.ps.policy import rule_from_message
from leash.ps.runs.chunk_states import ChunkClocks, ChunkState
from leash.ps.runs.events import EventLog
from leash.ps.runs.snapshot import ChunkMoment
from leash.ps.shard.data_desk import DataDesk, Send
from leash.ps.shard.identities import Identities
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import ServedModel
from leash.ps.wire.keys import Keyring
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_messages import (
    PARAMETERS,
    UPDATES,
    Align,
    Asked,
    CountHealed,
    Counts,
    CountUp,
    Done,
    Failed,
    ForgetSnapshot,
    GiveUp,
    Happened,
    Heal,
    Hold,
    Join,
    LeastStep,
    Leave,
    Load,
    OpenSnapshot,
    ReadSnapshot,
    Release,
    Reserve,
    Serve,
    SetClock,
    SetRule,
    SetVersion,
    SkipHealed,
    SnapshotPart,
    Start,
    Stop,
    Unreading,
)

FORWARDED_EVENTS: Final = ("duplicate", "nonfinite")  # the coordinator does not see these itself
UNANSWERED: Final = (
    Leave,
    Stop,
    Release,
    ReadSnapshot,
    ForgetSnapshot,
)  # the coordinator expects no answer to these
COUNTS_S: Final = 0.25  # between two `counts`, which are also signs of life
MAX_HEARD: Final = 256
NO_MEMORY: Final = "there is no memory for what changes while it is written"

LinkPayload: TypeAlias = bytes | bytearray | None
LinkAnswer: TypeAlias = tuple[Message, LinkPayload] | None
LinkNotice: TypeAlias = tuple[Message, LinkPayload]  # what the coordinator is told unasked


class LinkedEvents(EventLog):
    """Has events told to the coordinator instead of writing them to a file."""

    def __init__(self, notices: deque[LinkNotice], now: Callable[[], float]) -> None:
        super().__init__(None, now)
        self._notices: Final = notices

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None:
        if event in FORWARDED_EVENTS:
            self._notices.append((Happened(event), msgpack.packb(details)))


class LinkedShard:
    """Does what the coordinator says, and serves the chunks of one shard. For one thread.

    Attributes:
        data: takes the messages of workers, while the shard is not held.
        members: those that the coordinator has told of.
        metrics: the counts of this shard.
    """

    def __init__(
        self, shard: int, options: ServerOptions, send: Send,
        now: Callable[[], float] = time.monotonic, keyring: Keyring | None = None,
    ) -> None:  # fmt: skip
        """Begins without a model.

        Args:
            shard: its number, from 1.
            options: of the server.
            send: sends an answer over the data socket.
            now: seconds on a clock that never goes back.
            keyring: who is let in; None for everybody.
        """
        rule = options.rule
        self._now: Final = now
        self._notices: Final[deque[LinkNotice]] = deque()
        self.members: Final = Members(options.ranks, 0.0, now)
        self.metrics: Final = Metrics(rule, LinkedEvents(self._notices, now), 0, now)
        self.data: Final = DataDesk(
            options, rule, self.members, self.metrics, send, shard, now,
            Identities(keyring, self.members),
        )  # fmt: skip
        self._is_told_to_hold = False  # while true, messages of workers stay in their queues
        self._reported_initialized = False
        self._counted_s = 0.0  # when the counts were last told to the coordinator
        self._signal = 0
        self._handlers: Final[dict[type[Message], Callable[[Any, LinkPayload], LinkAnswer]]] = {
            Serve: self._on_serve,
            Reserve: self._on_reserve,
            Join: self._on_join,
            Leave: self._on_leave,
            Start: self._on_start,
            SetRule: self._on_set_rule,
            GiveUp: self._on_give_up,
            Stop: self._on_stop,
            Hold: self._on_hold,
            Align: self._on_align,
            Release: self._on_release,
            OpenSnapshot: self._on_open_snapshot,
            ReadSnapshot: self._on_read_snapshot,
            ForgetSnapshot: self._on_forget_snapshot,
            Load: self._on_load,
            SetVersion: self._on_set_version,
            SetClock: self._on_set_clock,
            CountUp: self._on_count_up,
            Heal: self._on_heal,
            CountHealed: lambda *_: (Done(self.data.healed_chunks), None),
            LeastStep: self._on_least_step,
            SkipHealed: self._on_skip_healed,
        }

    @property
    def is_held(self) -> bool:
        """Whether messages of workers are to stay in their queues now."""
        return self._is_told_to_hold or self.data.is_held

    # What comes from the coordinator.

    def answer(self, message: Message, payload: LinkPayload) -> LinkAnswer:
        """Does what a message says; gives the answer, if it has one. No message ends the shard.

        What `take_notices` gives now is to be sent before the answer.
        """
        try:
            return self._handlers[type(message)](message, payload)
        except Exception as error:
            refusal = self.metrics.refusal(error)
            if isinstance(message, UNANSWERED):
                self.metrics.count_refusal(refusal)
                return None
            return Failed(refusal.code, str(refusal)[:512]), None  # counted by who asked

    def _on_serve(self, _: Serve, payload: LinkPayload) -> LinkAnswer:
        self.data.make_model(Layout.unpack(bytes(payload or b"")))
        return Done(0), None

    def _on_reserve(self, _: Reserve, __: LinkPayload) -> LinkAnswer:
        return Done(self.data.reserve()), None

    def _on_join(self, msg: Join, _: LinkPayload) -> LinkAnswer:
        if self.members.find(msg.worker, msg.incarnation) is None:  # otherwise it had no place yet
            self.members.admit(msg.worker, msg.incarnation, msg.name, msg.key)
        if msg.worker and msg.first_step:
            self.data.join(msg.worker, msg.first_step)
        elif msg.worker:
            self.data.admit(msg.worker)
        return Done(0), None

    def _on_leave(self, msg: Leave, _: LinkPayload) -> LinkAnswer:
        member = self.members.find(msg.worker, msg.incarnation)
        if member is None:
            return None  # its hello did not come to its end, since another shard is lost
        self.members.leave(member, msg.state)
        if msg.worker:
            self.data.leave(msg.worker)
        return None

    def _on_start(self, _: Start, __: LinkPayload) -> LinkAnswer:
        self.metrics.start([])
        self.data.start()
        return Done(0), None

    def _on_set_rule(self, msg: SetRule, _: LinkPayload) -> LinkAnswer:
        self.data.set_rule(
            rule_from_message(
                msg.policy, msg.staleness, msg.staleness_max, msg.backup_workers, msg.bound_unit
            )
        )
        return Done(0), None

    def _on_give_up(self, _: GiveUp, __: LinkPayload) -> LinkAnswer:
        self.data.give_up_rounds()
        return Done(0), None

    def _on_stop(self, msg: Stop, _: LinkPayload) -> LinkAnswer:
        self.data.stop(msg.reason)
        return None

    def _on_hold(self, _: Hold, __: LinkPayload) -> LinkAnswer:
        self._is_told_to_hold = True
        return Done(0), None

    def _on_align(self, msg: Align, _: LinkPayload) -> LinkAnswer:
        step = self.data.align(msg.step)
        return Done(0 if step is None else step + 1), None

    def _on_release(self, _: Release, __: LinkPayload) -> LinkAnswer:
        self._is_told_to_hold = False
        self.data.go_on()
        return None

    def _on_open_snapshot(self, _: OpenSnapshot, __: LinkPayload) -> LinkAnswer:
        return Done(0), packed_moments(self._require_model().open_snapshot())

    def _on_read_snapshot(self, msg: ReadSnapshot, _: LinkPayload) -> LinkAnswer:
        out, told = bytearray(msg.nbytes), (msg.chunk, msg.array, msg.begin)
        try:
            self._require_model().read_snapshot(*told, memoryview(out))
        except MemoryError:
            self._notices.append((SnapshotPart(*told, NO_MEMORY), None))
        else:
            self._notices.append((SnapshotPart(*told), out))
        return None

    def _on_forget_snapshot(self, msg: ForgetSnapshot, _: LinkPayload) -> LinkAnswer:
        model = self._require_model()
        if msg.whole:
            model.close_snapshot()
        else:
            model.release_snapshot(msg.chunk)
        return None

    def _on_load(self, msg: Load, payload: LinkPayload) -> LinkAnswer:
        shard = self._require_model().shard
        assert payload is not None
        if msg.state == PARAMETERS:
            return Done(int(shard.init(msg.chunk, payload))), None
        if msg.state == UPDATES:
            shard.set_updates(msg.chunk, [int(n) for n in np.frombuffer(payload, "<u8")])
            return Done(1), None
        shard.load_state(msg.chunk, msg.state, payload)
        return Done(1), None

    def _on_set_version(self, msg: SetVersion, _: LinkPayload) -> LinkAnswer:
        self._require_model().shard.set_version(msg.chunk, msg.version)
        return Done(0), None

    def _on_set_clock(self, msg: SetClock, _: LinkPayload) -> LinkAnswer:
        self._require_model().begin_at(msg.clock)
        return Done(0), None

    def _on_count_up(self, _: CountUp, __: LinkPayload) -> LinkAnswer:
        self._tell_counts()
        return Done(0), None

    def _on_heal(self, msg: Heal, _: LinkPayload) -> LinkAnswer:
        self.data.begin_healing(msg.generation)
        return Done(0), None

    def _on_least_step(self, _: LeastStep, __: LinkPayload) -> LinkAnswer:
        step = self.data.least_step
        return Done(0 if step is None else step + 1), None

    def _on_skip_healed(self, _: SkipHealed, __: LinkPayload) -> LinkAnswer:
        self.data.skip_healed()
        return Done(0), None

    # What the coordinator is told.

    def on_signal(self, number: int) -> None:
        """Notes a signal to end, for the coordinator, which then ends the run."""
        self._signal = number

    def advance(self, unreading: Iterable[int] = ()) -> None:
        """Notes what there is to tell. Call it after messages, and at least every COUNTS_S.

        Args:
            unreading: the workers that have not read their answers since the last call.
        """
        self._notices.extend((Unreading(worker), None) for worker in unreading)
        if self._signal:
            self._notices.append((Asked(self._signal), None))
            self._signal = 0
        # Workers wait until all chunks have values, so this news does not wait for its time.
        is_news = not self._reported_initialized and self.data.initialized
        if is_news or self._now() - self._counted_s >= COUNTS_S:
            self._tell_counts()

    def take_notices(self) -> Iterator[LinkNotice]:
        """Yields what the coordinator is to be told, in the order in which it happened."""
        while self._notices:
            yield self._notices.popleft()

    def _tell_counts(self) -> None:
        self.data.settle()
        counts = self.metrics.own
        heard = self.members.heard_since(self._counted_s)
        self._reported_initialized, self._counted_s = self.data.initialized, self._now()
        told = Counts(
            self._reported_initialized, self.data.parked, counts.replies, counts.staleness_sum,
            counts.max_staleness, counts.max_lag, counts.duplicates, counts.nonfinite_chunks,
            counts.bytes_pushed, counts.bytes_answered, counts.dropped,
            dict(counts.refusals), heard[:MAX_HEARD], self.data.version,
        )  # fmt: skip
        self._notices.append((told, np.array(self.data.waiting, "<u4").tobytes()))

    def _require_model(self) -> ServedModel:
        assert self.data.model is not None, "the coordinator gives a model first"
        return self.data.model


def settings_of(options: ServerOptions) -> bytes:
    """Packs the settings as the payload of `begin`."""
    packed: bytes = msgpack.packb(dataclasses.asdict(options))
    return packed


def unpacked_settings(payload: LinkPayload) -> ServerOptions:
    """Reads what `settings_of` has packed."""
    return ServerOptions(**msgpack.unpackb(payload or b"\x80"))


def packed_moments(moments: list[ChunkMoment]) -> bytes:
    """Packs what chunks have beside their numbers as the payload of the answer to `snapshot`."""
    rows = [
        (m.state.version, m.state.clocks.least, m.state.clocks.by_worker, m.state.updates,
         m.has_buffers)
        for m in moments
    ]  # fmt: skip
    packed: bytes = msgpack.packb(rows)
    return packed


def unpacked_moments(payload: bytes | bytearray) -> list[ChunkMoment]:
    """Reads what `packed_moments` has packed."""
    return [
        ChunkMoment(ChunkState(version, ChunkClocks(least, by_worker), updates), has_buffers)
        for version, least, by_worker, updates, has_buffers in msgpack.unpackb(
            payload, strict_map_key=False
        )
    ]
