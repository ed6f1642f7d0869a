"""A server without sockets, processes and time: its parts, with all shards inside this process."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from leash.ps._core import Shard
from leash.ps.errors import LeashError, ShardLostError
from leash.ps.options.addresses import parse_learners
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule, rule_from_message
from leash.ps.runs.chunk_states import ChunkClocks
from leash.ps.runs.events import EventLog
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.shards import Shards
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Beat, Beaten, Bye, Error, Hello, Message, Ok, Push, Welcome
from leash.ps.wire.shard_messages import (
    Align,
    Counts,
    CountUp,
    Happened,
    Hold,
    Join,
    Leave,
    Release,
    Reserve,
    Serve,
    SetClock,
    SetRule,
    Start,
    Stop,
)

# Four groups, so four chunks; each is 64 bytes, so that shards get as many as is fair.
LAYOUT = Layout(
    [
        Slot("w", "f32", (16,)),
        Slot("d", "f64", (8,)),
        Slot("mean", "f32", (16,), "buffer"),
        Slot("count", "f64", (8,), "buffer"),
    ]
)
OTHER_LAYOUT = Layout([Slot("w", "f32", (17,))])
CHUNKS = 4
OWN_PORT = 5001
FIRST_INCARNATION = 1000
ROUTE = b"route"


def hand(
    plane: DataDesk, message: Message, payload: bytes | bytearray | None = None,
    route: bytes = ROUTE,
) -> None:  # fmt: skip
    """Has a data socket's handlers take one message."""
    header = encode(message)
    plane.receive([route, header] if payload is None else [route, header, payload])


class StillClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def skip(self, seconds: float) -> None:
        self.now_s += seconds


class KeptEvents(EventLog):
    """Keeps events instead of writing them."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kept: list[tuple[str, dict[str, Any]]] = []

    @property
    def is_open(self) -> bool:
        return True

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None:
        self.kept.append((event, details))

    def named(self, *events: str) -> list[dict[str, Any]]:
        """The details of the events of these names, in their order."""
        return [details for event, details in self.kept if event in events]


class FarShard:
    """A shard beside the coordinator: does what it is told, as its process would."""

    def __init__(
        self, index: int, options: ServerOptions, clock: StillClock, send: Callable[..., None]
    ) -> None:
        rule = options.rule
        self.index = index
        self.pid = 70_000 + index
        self.lost = self.how = ""
        self.is_held = False
        self.fails_with: LeashError | None = None  # what it is asked next
        self.members = Members(parse_learners(options.learners, options.workers), 0.0, clock)
        self.metrics = Metrics(rule, EventLog(None), 0, clock)
        self.plane = DataDesk(options, rule, self.members, self.metrics, send, index, clock)

    def lose(self, how: str) -> None:
        self.how = how
        self.lost = f"shard {self.index} (process {self.pid}) was lost: {how}"

    def take(self, message: Message, payload: bytes | None) -> int:
        """Does it; returns the value of the answer."""
        if self.fails_with is not None:
            failure, self.fails_with = self.fails_with, None
            raise failure
        match message:
            case Serve():
                self.plane.make_model(Layout.unpack(payload or b""))
            case Reserve():
                return self.plane.reserve()
            case Join():
                self.members.admit(message.worker, message.incarnation, message.name)
                if message.worker:
                    self.plane.join(message.worker, message.first_step)
            case Leave():
                member = self.members.find(message.worker, message.incarnation)
                assert member is not None, message
                self.members.leave(member, message.state)
                if message.worker:
                    self.plane.leave(message.worker)
            case Start():
                self.metrics.start([])
                self.plane.start()
            case SetRule(policy, staleness, staleness_max, backup_workers, bound_unit):
                self.plane.set_rule(
                    rule_from_message(policy, staleness, staleness_max, backup_workers, bound_unit)
                )
            case Stop():
                self.plane.stop(message.reason)
            case _:
                return self._take_for_checkpoint(message)
        return 0

    def _take_for_checkpoint(self, message: Message) -> int:
        match message:
            case Hold():
                self.is_held = True
            case Align():
                step = self.plane.align(message.step)
                return 0 if step is None else step + 1
            case Release():
                self.is_held = False
                self.plane.go_on()
            case SetClock():
                assert self.plane.model is not None
                self.plane.model.begin_at(message.clock)
            case _:
                raise AssertionError(message)
        return 0

    def ask(self, message: Message, payload: bytes | None = None) -> tuple[int, None]:
        """Does it alone; returns the value of the answer, which has no payload."""
        if self.lost:
            raise ShardLostError(self.lost)
        return self.take(message, payload), None

    def counts(self, heard: list[int]) -> Counts:
        self.plane.settle()
        own = self.metrics.own
        return Counts(
            self.plane.initialized, self.plane.parked, own.replies, own.staleness_sum,
            own.max_staleness, own.max_lag, own.duplicates, own.nonfinite_chunks,
            own.bytes_pushed, own.bytes_answered, own.dropped, dict(own.refusals), heard,
        )  # fmt: skip

    # Its chunks, for checkpoints.

    def init(self, chunk: int, values: Any) -> bool:
        return self._shard.init(chunk, values)

    def pull(self, chunk: int, worker: None, out: Any) -> int:
        return self._shard.pull(chunk, worker, out)

    def set_version(self, chunk: int, version: int) -> None:
        self._shard.set_version(chunk, version)

    def has_state(self, chunk: int) -> bool:
        return self._shard.has_state(chunk)

    def updates(self, chunk: int) -> list[int]:
        return self._shard.updates(chunk)

    def set_updates(self, chunk: int, updates: list[int]) -> None:
        self._shard.set_updates(chunk, updates)

    def state(self, chunk: int, name: str, out: Any) -> None:
        self._shard.state(chunk, name, out)

    def load_state(self, chunk: int, name: str, values: Any) -> None:
        self._shard.load_state(chunk, name, values)

    def clocks(self, chunk: int) -> ChunkClocks:
        assert self.plane.model is not None
        return self.plane.model.clocks(chunk)

    @property
    def _shard(self) -> Shard:
        assert self.plane.model is not None
        return self.plane.model.shard


class FarShards:
    """All of them: in the shape of RemoteShards."""

    def __init__(
        self, options: ServerOptions, clock: StillClock, send: Callable[..., None]
    ) -> None:
        self.all = [FarShard(i, options, clock, send) for i in range(1, options.shards)]
        self.ports = [OWN_PORT + shard.index for shard in self.all]
        self.told: list[Message] = []
        self.notices: deque[tuple[FarShard, Message, bytearray | None]] = deque()
        self.on_the_way: Callable[[Message], None] = lambda _: None  # before a question is taken

    def ask(self, message: Message, payload: bytes | None = None) -> list[int]:
        self.on_the_way(message)
        if self.lost:
            raise ShardLostError(self.lost.lost)
        self.told.append(message)
        if isinstance(message, CountUp):
            for shard in self.all:
                self.notify(shard.index, shard.counts([]))
            return [0] * len(self.all)
        return [shard.take(message, payload) for shard in self.all]

    def tell(self, message: Message, payload: bytes | None = None) -> None:
        self.told.append(message)
        for shard in self.all:
            if not shard.lost:
                shard.take(message, payload)

    def notify(self, index: int, message: Message, payload: bytes | None = None) -> None:
        """This shard tells something unasked."""
        notice = bytearray(payload) if payload is not None else None
        self.notices.append((self.all[index - 1], message, notice))

    def happened(self, index: int, event: str, details: bytes) -> None:
        self.notify(index, Happened(event), details)

    def take_notices(self) -> Iterator[tuple[FarShard, Message, bytearray | None]]:
        while self.notices:
            yield self.notices.popleft()

    @property
    def lost(self) -> FarShard | None:
        return next((shard for shard in self.all if shard.lost), None)


class SocklessServer:
    """The parts of a server, as its loop puts them together, with what they send kept."""

    def __init__(self, policy: str = "ssp", bound: int | None = None, **settings: Any) -> None:
        """Args:
        bound: the limit of the policy: of drop that of staleness, otherwise that of lag.
        settings: further options of the server.
        """
        limit = "max_staleness" if policy == "drop" else "bound"
        chosen: dict[str, Any] = {"policy": policy, limit: bound}
        self.options = ServerOptions(chunk_kib=64, **chosen, **settings)
        self.options.check()
        self.rule: Rule = self.options.rule
        self.clock = StillClock()
        self.events = KeptEvents()
        self.sent: list[Message] = []  # over the data sockets of all shards
        ranks = parse_learners(self.options.learners, self.options.workers)
        self.members = Members(
            ranks, self.options.evict_s, self.clock, wall_time_us=lambda: FIRST_INCARNATION
        )
        self.metrics = Metrics(self.rule, self.events, self.options.step_events, self.clock)
        self.plane = DataDesk(
            self.options, self.rule, self.members, self.metrics, self._send, now=self.clock
        )
        self.far = FarShards(self.options, self.clock, self._send)
        self.shards = Shards(
            self.plane, OWN_PORT, self.far, self.members, self.metrics  # type: ignore[arg-type]
        )  # fmt: skip
        self.coordinator = Coordinator(
            self.options, self.rule, self.members, self.metrics, self.shards, self.clock
        )

    def _send(self, route: bytes, header: bytes, payload: Any, worker: int) -> None:
        self.sent.append(decode(header, REPLIES))

    # The control socket.

    def ask(self, message: Message, payload: bytes | None = None) -> Message:
        """The answer, whatever it is."""
        return self.coordinator.answer(message, payload)[0]

    def refusal(self, message: Message, payload: bytes | None = None) -> Error:
        answer = self.ask(message, payload)
        assert isinstance(answer, Error), answer
        return answer

    def hello(self, worker: int, layout: Layout | None = LAYOUT, **fields: Any) -> Welcome:
        """A process joins: an observer, if the worker is 0."""
        hello = Hello(**{"role": "worker" if worker else "observer", "worker": worker,
                         "name": f"process {worker}", **fields})  # fmt: skip
        answer = self.ask(hello, layout.pack() if layout is not None else None)
        assert isinstance(answer, Welcome), answer
        return answer

    def start(self) -> dict[int, Welcome]:
        """All workers join, and all chunks get values; the welcomes by rank."""
        welcomes = {rank: self.hello(rank) for rank in self.members.ranks}
        self.init()
        return welcomes

    def beat(self, worker: int, incarnation: int | None = None) -> Beaten:
        answer = self.ask(Beat(worker, self.incarnation(worker, incarnation)))
        assert isinstance(answer, Beaten), answer
        return answer

    def bye(self, worker: int, reason: str = "done", incarnation: int | None = None) -> None:
        answer = self.ask(Bye(worker, self.incarnation(worker, incarnation), reason))
        assert isinstance(answer, Ok), answer

    def incarnation(self, worker: int, given: int | None = None) -> int:
        """The newest of a rank, if none is given."""
        return self.members.workers[worker].incarnation if given is None else given

    def evict(self, *workers: int) -> None:
        """They are silent for too long; the other live ones are not."""
        self.clock.skip(self.options.evict_s + 1)
        for member in (*self.members.live, *self.members.observers.values()):
            if member.worker not in workers:
                self.beat(member.worker, member.incarnation)
        self.coordinator.tick()

    # The data sockets.

    @property
    def planes(self) -> list[DataDesk]:
        """Those of all shards."""
        return [self.plane, *(shard.plane for shard in self.far.all)]

    def init(self) -> None:
        """Every chunk gets values, and the coordinator hears of it."""
        for plane in self.planes:
            assert plane.model is not None
            for chunk in plane.model.own:
                plane.model.shard.init(chunk.index, bytes(chunk.nbytes))
        self.shards.count_up()

    def push(self, worker: int, step: int, samples: int = 1, value: int = 0) -> None:
        """All chunks of a step, from the last to the first."""
        for plane in reversed(self.planes):
            self.push_to(plane, worker, step, samples, value)

    def push_to(
        self, plane: DataDesk, worker: int, step: int, samples: int = 1, value: int = 0
    ) -> None:
        """Those of one shard; every byte of their gradients has this value."""
        assert plane.model is not None
        for chunk in reversed(plane.model.own):
            push = Push(
                worker, self.incarnation(worker), step, chunk.index, chunk.dtype, samples
            )  # fmt: skip
            hand(plane, push, bytes([value] * chunk.nbytes))
        plane.settle()

    def answered(self, worker: int, since: int = 0) -> list[int]:
        """The steps of which every chunk has been answered.

        Args:
            since: how many messages had been sent when this began.
        """
        sent = self.sent[since:]
        chunks = Counter(m.step for m in sent if isinstance(m, Ok) and m.worker == worker)
        return sorted(step for step, count in chunks.items() if count >= CHUNKS)

    def counted(self) -> list[list[int]]:
        """The workers that each shard with chunks waits for."""
        models = [plane.model for plane in self.planes]
        return [model.shard.workers() for model in models if model is not None and model.own]
