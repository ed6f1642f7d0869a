"""Runs a shard beside the coordinator: a process with chunks, a data socket and clocks of its own.

leash.ps.server.remote_shards starts it. Over its link the coordinator tells it the settings, the
model and who takes part. Its data socket serves workers as that of shard 0 does. It evicts nobody,
and ends when its link ends.
"""

import dataclasses
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import msgpack
import numpy as np
import zmq

from leash._log import show_errors
from leash.ps import interrupt
from leash.ps._core import keep_freed_memory
from leash.ps.errors import LeashError, UsageError
from leash.ps.options.addresses import address_of, parse_learners, split_address
from leash.ps.options.server import ServerOptions
from leash.ps.policy import rule_from_message
from leash.ps.runs.chunk_states import ChunkClocks
from leash.ps.runs.events import EventLog
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import ServedModel, require_threads
from leash.ps.shard.router import DataRouter
from leash.ps.wire.frames import TO_SHARD
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import Link, LinkClosedError, ReceivedPayload
from leash.ps.wire.shard_messages import (
    CHUNK_CLOCKS,
    PARAMETERS,
    UPDATES,
    USAGE,
    Align,
    Asked,
    Begin,
    Counts,
    CountUp,
    Done,
    Failed,
    Fetch,
    Happened,
    Has,
    Hold,
    Join,
    Leave,
    Load,
    Release,
    Reserve,
    Serve,
    SetClock,
    SetRule,
    SetVersion,
    Start,
    Stop,
    Unreading,
)

FORWARDED_EVENTS: Final = ("duplicate", "nonfinite")  # the coordinator does not see these itself
UNANSWERED: Final = (Leave, Stop, Release)  # the coordinator expects no answer to these
COUNTS_S: Final = 0.25  # between two `counts`, which are also signs of life
MAX_HEARD: Final = 256
LAST_ANSWERS_MS: Final = 200  # at the end, the last answers have so long to leave

LinkAnswer = tuple[Message, ReceivedPayload] | None


class LinkedEvents(EventLog):
    """Sends events to the coordinator instead of writing them to a file."""

    def __init__(self, link: Link) -> None:
        super().__init__(None)
        self._link: Final = link

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None:
        if event in FORWARDED_EVENTS:
            with suppress(LinkClosedError):  # the loop notices the end of the link
                self._link.send(Happened(event), msgpack.packb(details))


class ShardServer:
    """Serves one shard. It listens when made; `run` serves until the coordinator is gone."""

    def __init__(self, link: Link, begin: Begin, options: ServerOptions) -> None:
        """Raises UsageError: its port is taken, or its threads cannot start."""
        rule = options.rule
        require_threads(options.threads)
        host, _ = split_address(address_of(options.bind, options.ps_ip, options.ps_port))
        self._link: Final = link
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._router: Final = DataRouter(self._context, options, host, begin.port)
        self._members: Final = Members(parse_learners(options.learners, options.workers), 0.0)
        self._metrics: Final = Metrics(rule, LinkedEvents(link), 0)
        self._data: Final = DataDesk(
            options, rule, self._members, self._metrics, self._router.send, begin.shard
        )
        self._held = False  # while true, messages of workers stay in their queues
        self._reported_initialized = False
        self._counted_s = 0.0  # when the counts were last sent to the coordinator
        self._signal = 0
        self._handlers: Final[dict[type[Message], Callable[[Any, ReceivedPayload], LinkAnswer]]] = {
            Serve: self._on_serve,
            Reserve: self._on_reserve,
            Join: self._on_join,
            Leave: self._on_leave,
            Start: self._on_start,
            SetRule: self._on_set_rule,
            Stop: self._on_stop,
            Hold: self._on_hold,
            Align: self._on_align,
            Release: self._on_release,
            Fetch: self._on_fetch,
            Has: self._on_has,
            Load: self._on_load,
            SetVersion: self._on_set_version,
            SetClock: self._on_set_clock,
            CountUp: self._on_count_up,
        }

    @property
    def port(self) -> int:
        """The port of the data socket."""
        return self._router.port

    def run(self) -> None:
        """Serves until the link ends."""
        poller = zmq.Poller()
        poller.register(self._link.fd, zmq.POLLIN)
        poller.register(self._router.socket, zmq.POLLIN)
        try:
            while True:
                if self._is_held:
                    self._link.has_come(COUNTS_S)
                else:
                    poller.poll(int(COUNTS_S * 1000))
                # The link first: it may say that workers must wait.
                while self._link.has_come():
                    self._on_link()
                if not self._is_held:
                    self._router.take(self._data.receive, until=lambda: self._data.is_held)
                self._tell()
        except LinkClosedError:
            return  # the coordinator has ended, in whatever way
        finally:
            self._context.destroy(linger=LAST_ANSWERS_MS)

    @property
    def _is_held(self) -> bool:
        return self._held or self._data.is_held

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """Notes a signal, for the loop."""
        self._signal = number  # the loop tells the coordinator, which then ends the run

    # Messages from the coordinator.

    def _on_link(self) -> None:
        message, payload = self._link.receive()
        try:
            answer = self._handlers[type(message)](message, payload)
        except Exception as error:
            refusal = self._metrics.refusal(error)
            if isinstance(message, UNANSWERED):
                self._metrics.count_refusal(refusal)
                return
            answer = Failed(refusal.code, str(refusal)[:512]), None  # counted by who asked
        if answer is not None:
            self._link.send(*answer)

    def _on_serve(self, _: Serve, payload: ReceivedPayload) -> LinkAnswer:
        self._data.make_model(Layout.unpack(bytes(payload or b"")))
        return Done(0), None

    def _on_reserve(self, _: Reserve, __: ReceivedPayload) -> LinkAnswer:
        return Done(self._data.reserve()), None

    def _on_join(self, msg: Join, _: ReceivedPayload) -> LinkAnswer:
        self._members.admit(msg.worker, msg.incarnation, msg.name)
        if msg.worker:
            self._data.join(msg.worker, msg.first_step)
        return Done(0), None

    def _on_leave(self, msg: Leave, _: ReceivedPayload) -> LinkAnswer:
        member = self._members.find(msg.worker, msg.incarnation)
        if member is None:
            return None  # its hello did not come to its end, since another shard is lost
        self._members.leave(member, msg.state)
        if msg.worker:
            self._data.leave(msg.worker)
        return None

    def _on_start(self, _: Start, __: ReceivedPayload) -> LinkAnswer:
        self._metrics.start([])
        self._data.start()
        return Done(0), None

    def _on_set_rule(self, msg: SetRule, _: ReceivedPayload) -> LinkAnswer:
        self._data.set_rule(
            rule_from_message(
                msg.policy, msg.staleness, msg.staleness_max, msg.backup_workers, msg.bound_unit
            )
        )
        return Done(0), None

    def _on_stop(self, msg: Stop, _: ReceivedPayload) -> LinkAnswer:
        self._data.stop(msg.reason)
        return None

    def _on_hold(self, _: Hold, __: ReceivedPayload) -> LinkAnswer:
        self._held = True
        return Done(0), None

    def _on_align(self, msg: Align, _: ReceivedPayload) -> LinkAnswer:
        step = self._data.align(msg.step)
        return Done(0 if step is None else step + 1), None

    def _on_release(self, _: Release, __: ReceivedPayload) -> LinkAnswer:
        self._held = False
        self._data.go_on()
        return None

    def _on_fetch(self, msg: Fetch, _: ReceivedPayload) -> LinkAnswer:
        model = self._require_model()
        if msg.state == UPDATES:
            return Done(0), bytearray(np.array(model.shard.updates(msg.chunk), "<u8").tobytes())
        if msg.state == CHUNK_CLOCKS:
            return Done(0), bytearray(packed_clocks(model.clocks(msg.chunk)))
        out = bytearray(model.chunk(msg.chunk).nbytes)
        if msg.state == PARAMETERS:
            return Done(model.shard.pull(msg.chunk, None, out)[0]), out
        model.shard.state(msg.chunk, msg.state, out)
        return Done(0), out

    def _on_has(self, msg: Has, _: ReceivedPayload) -> LinkAnswer:
        return Done(int(self._require_model().shard.has_state(msg.chunk))), None

    def _on_load(self, msg: Load, payload: ReceivedPayload) -> LinkAnswer:
        shard = self._require_model().shard
        assert payload is not None
        if msg.state == PARAMETERS:
            return Done(int(shard.init(msg.chunk, payload))), None
        if msg.state == UPDATES:
            shard.set_updates(msg.chunk, [int(n) for n in np.frombuffer(payload, "<u8")])
            return Done(1), None
        shard.load_state(msg.chunk, msg.state, payload)
        return Done(1), None

    def _on_set_version(self, msg: SetVersion, _: ReceivedPayload) -> LinkAnswer:
        self._require_model().shard.set_version(msg.chunk, msg.version)
        return Done(0), None

    def _on_set_clock(self, msg: SetClock, _: ReceivedPayload) -> LinkAnswer:
        self._require_model().begin_at(msg.clock)
        return Done(0), None

    def _on_count_up(self, _: CountUp, __: ReceivedPayload) -> LinkAnswer:
        self._tell_counts()
        return Done(0), None

    # Messages to the coordinator.

    def _tell(self) -> None:
        for worker in self._router.take_unreading():
            self._link.send(Unreading(worker))
        if self._signal:
            self._link.send(Asked(self._signal))
            self._signal = 0
        now_s = time.monotonic()
        # Workers wait until all chunks have values, so this news does not wait for its time.
        is_news = not self._reported_initialized and self._data.initialized
        if is_news or now_s - self._counted_s >= COUNTS_S:
            self._tell_counts()

    def _tell_counts(self) -> None:
        self._data.settle()
        counts = self._metrics.own
        heard = self._members.heard_since(self._counted_s)
        self._reported_initialized, self._counted_s = self._data.initialized, time.monotonic()
        self._link.send(
            Counts(
                self._reported_initialized, self._data.parked, counts.replies, counts.staleness_sum,
                counts.max_staleness, counts.max_lag, counts.duplicates, counts.nonfinite_chunks,
                counts.bytes_pushed, counts.bytes_answered, counts.dropped,
                dict(counts.refusals), heard[:MAX_HEARD], self._data.version,
            )
        )  # fmt: skip

    def _require_model(self) -> ServedModel:
        assert self._data.model is not None, "the coordinator gives a model first"
        return self._data.model


def packed_clocks(clocks: ChunkClocks) -> bytes:
    """Packs a chunk's clocks as the payload of `fetch`."""
    by_worker = [number for pair in clocks.by_worker.items() for number in pair]
    return np.array([clocks.least, *by_worker], "<u8").tobytes()


def unpacked_clocks(payload: bytes | bytearray) -> ChunkClocks:
    """Reads what `packed_clocks` has packed."""
    least, *by_worker = (int(number) for number in np.frombuffer(payload, "<u8"))
    return ChunkClocks(least, dict(zip(by_worker[::2], by_worker[1::2], strict=True)))


def begin(link: Link) -> ShardServer:
    """Waits for the settings, and listens; sends a UsageError to the coordinator and raises it."""
    message, payload = link.receive()
    assert isinstance(message, Begin)
    options = ServerOptions(**msgpack.unpackb(payload or b"\x80"))
    try:
        server = ShardServer(link, message, options)
    except UsageError as error:
        link.send(Failed(USAGE, str(error)[:512]))
        raise
    link.send(Done(server.port))
    return server


def settings_of(options: ServerOptions) -> bytes:
    """Packs the settings as the payload of `begin`."""
    packed: bytes = msgpack.packb(dataclasses.asdict(options))
    return packed


def serve_shard(fd: int) -> int:
    """Serves one shard over the link that was inherited as `fd`; returns the exit status."""
    show_errors("leash.ps.shard")
    keep_freed_memory()  # if malloc refuses, the coordinator has warned already
    # Until the loop runs, only the end of the link ends this process.
    interrupt.ignore_signals()
    link = Link(socket.socket(fileno=fd), TO_SHARD, None)
    try:
        server = begin(link)
        for number in interrupt.SIGNALS:
            signal.signal(number, server.on_signal)
        server.run()
    except LinkClosedError:
        return 0
    except LeashError:
        return 2
    finally:
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(serve_shard(int(sys.argv[1])))
