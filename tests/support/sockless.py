"""A server without sockets, processes and time: its parts, with all shards inside this process.

And a disk that is full, or broken, when a test says so.
"""

import errno
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leash.ps.errors import ProtocolError
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.runs.checkpoint_file import Bytes, Plan
from leash.ps.runs.disk import EndedWriting, GrowingFile, OpenFile, ThisHost, Writing
from leash.ps.runs.events import EventLog
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.shards.remote_shards import OnNotice, RemoteShard, RemoteShards
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.data_desk import DataDesk, Send
from leash.ps.shard.linked_shard import LinkedShard, LinkPayload, unpacked_settings
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Beat, Beaten, Bye, Error, Hello, Message, Ok, Push, Welcome
from leash.ps.wire.shard_link import LinkClosedError, ReceivedPayload, SentPayload
from leash.ps.wire.shard_messages import Begin, Counts, CountUp, Done, Failed, Happened

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
    plane.settle()


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


class MemoryLink:
    """The process of one shard, and the stream to it. Implements remote_shards.ShardLink.

    What the shard has sent before it was lost can still be read, as with a stream.
    """

    def __init__(self, pid: int, send: Send, now: Callable[[], float]) -> None:
        """Args:
        pid: the process id to show.
        send: sends an answer over the shard's data socket.
        now: the shard's clock.
        """
        self.pid = pid
        self.how = ""  # once it is lost: how
        self.fails_with: ProtocolError | None = None  # what it is asked next
        self._send = send
        self._now = now
        self._shard: LinkedShard | None = None
        self._sent: deque[tuple[Message, ReceivedPayload]] = deque()

    @property
    def shard(self) -> LinkedShard:
        """What the process decides by; it is there once the coordinator has told it to begin."""
        assert self._shard is not None
        return self._shard

    def lose(self, how: str) -> None:
        """The process ends, from one moment to the next."""
        self.how = how

    def advance(self) -> None:
        """The process has its turn: it tells what there is to tell."""
        self.shard.advance()
        self._send_notices()

    # What the coordinator does.

    def send(self, message: Message, payload: SentPayload = None) -> None:
        if self.how:
            raise LinkClosedError(self.how)
        taken = bytearray(payload) if payload is not None else None
        if isinstance(message, Begin):
            self._shard = LinkedShard(
                message.shard, unpacked_settings(taken), self._send, self._now
            )
            self.put(Done(message.port))
            return
        if self.fails_with is not None:
            failure, self.fails_with = self.fails_with, None
            self.put(Failed(failure.code, str(failure)))
            return
        answer = self.shard.answer(message, taken)
        self._send_notices()
        if answer is not None:
            self.put(*answer)

    def receive(self, wait_s: float) -> tuple[Message, ReceivedPayload] | None:
        if self._sent:
            return self._sent.popleft()
        if self.how:
            raise LinkClosedError(self.how)
        return None

    def ending(self) -> str:
        return self.how

    def kill(self) -> None:
        self.how = self.how or "killed by SIGKILL"

    def let_go(self) -> None:
        self.how = self.how or "it ended with status 0"

    def reap(self) -> None:
        assert self.how, "it was let go before"

    # How it is done.

    def put(self, message: Message, payload: LinkPayload = None) -> None:
        """The shard sends this."""
        self._sent.append((message, bytearray(payload) if payload is not None else None))

    def _send_notices(self) -> None:
        for message, payload in self.shard.take_notices():
            self.put(message, payload)


class FarShard(RemoteShard):
    """A shard beside the coordinator, with its process inside this one."""

    def __init__(self, index: int, on_notice: OnNotice, send: Send, clock: StillClock) -> None:
        self.link = MemoryLink(70_000 + index, send, clock)
        # No shard is lost for its silence, however much time a test skips.
        super().__init__(index, self.link, on_notice, now=lambda: 0.0)

    def lose(self, how: str) -> None:
        """Its process ends, and the coordinator sees it at once."""
        self.link.lose(how)
        self.take_notices()

    def take(self, message: Message, payload: bytes | None) -> None:
        """Does it, though the coordinator has not told it to."""
        self.link.shard.answer(message, payload)

    def counts(self, heard: list[int]) -> Counts:
        """What it would tell, if it had heard of these workers."""
        self.link.shard.answer(CountUp(), None)
        *_, (counts, _) = self.link.shard.take_notices()
        assert isinstance(counts, Counts)
        return replace(counts, heard=heard)

    @property
    def plane(self) -> DataDesk:
        return self.link.shard.data

    @property
    def members(self) -> Members:
        return self.link.shard.members

    @property
    def metrics(self) -> Metrics:
        return self.link.shard.metrics

    @property
    def is_held(self) -> bool:
        return self.link.shard.is_held


class FarShards(RemoteShards):
    """All of them, with what they are told kept."""

    all: list[FarShard]  # type: ignore[assignment]

    def __init__(self, options: ServerOptions, clock: StillClock, send: Send) -> None:
        self.told: list[Message] = []
        self.on_the_way: Callable[[Message], None] = lambda _: None  # before a question is taken
        super().__init__(
            options, OWN_PORT + 1, lambda index, notice: FarShard(index, notice, send, clock)
        )

    def ask(self, message: Message, payload: SentPayload = None) -> list[int]:
        self.on_the_way(message)
        return super().ask(message, payload)

    def tell(self, message: Message, payload: SentPayload = None) -> None:
        self.told.append(message)
        super().tell(message, payload)

    def notify(self, index: int, message: Message, payload: bytes | None = None) -> None:
        """This shard tells something unasked."""
        self.all[index - 1].link.put(message, payload)

    def happened(self, index: int, event: str, details: bytes) -> None:
        self.notify(index, Happened(event), details)


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
        self.members = Members(
            self.options.ranks, self.options.evict_s, self.clock, lambda: FIRST_INCARNATION,
            self.options.least,
        )  # fmt: skip
        self.metrics = Metrics(self.rule, self.events, self.options.step_events, self.clock)
        self.plane = DataDesk(
            self.options, self.rule, self.members, self.metrics, self._send, now=self.clock
        )
        self.far = FarShards(self.options, self.clock, self._send)
        self.shards = Shards(self.plane, OWN_PORT, self.far, self.members, self.metrics)
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


class TightDisk(ThisHost):
    """A disk of this host, with room for so many bytes more, or one that fails.

    Attributes:
        error: the number of the error where it takes nothing.
        room: for logs, in bytes; None for any number. At 0 nothing else can be written either.
        full: names of files for which there is no room.
        can_create: whether a log can be made.
        tries: how often a checkpoint was begun that has a name.
    """

    def __init__(
        self, room: int | None = None, full: Iterable[str] = (), error: int = errno.ENOSPC
    ) -> None:
        self.room = room
        self.error = error
        self.full = set(full)
        self.can_create = True
        self.tries = 0

    def replace(self, path: Path, pieces: Iterable[Bytes]) -> None:
        self.require_room([path])
        super().replace(path, pieces)

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        self.tries += bool(paths)
        return _TightWriting(self, paths, super().begin(paths, plan, is_urgent=is_urgent))

    def begin_text(self, path: Path, content: bytes) -> Writing:
        try:
            self.require_room([path])
        except OSError as error:
            return EndedWriting(error)
        return super().begin_text(path, content)

    def create(self, path: Path) -> GrowingFile:
        if not self.can_create:
            raise OSError(30, "Read-only file system")
        return _TightFile(self, super().create(path))

    def require_room(self, paths: Sequence[Path]) -> None:
        if paths and (self.room == 0 or any(path.name in self.full for path in paths)):
            raise self.failure()

    def failure(self) -> OSError:
        return OSError(self.error, os.strerror(self.error))


class _TightFile:
    def __init__(self, disk: TightDisk, file: GrowingFile) -> None:
        self._disk, self._file = disk, file

    def write(self, piece: Bytes, /) -> int | None:
        room = self._disk.room
        if room == 0:
            raise self._disk.failure()
        if room is None:
            return self._file.write(piece)
        count = self._file.write(memoryview(piece)[:room]) or 0
        self._disk.room = room - count
        return count

    def close(self) -> None:
        self._file.close()


class _TightWriting:
    """Fails in the midst of the file where there is no room for it."""

    def __init__(self, disk: TightDisk, paths: Sequence[Path], writing: Writing) -> None:
        self._disk, self._paths, self._writing = disk, paths, writing
        self._failure: OSError | None = None

    @property
    def is_over(self) -> bool:
        return self._failure is not None or self._writing.is_over

    @property
    def failure(self) -> OSError | None:
        return self._failure or self._writing.failure

    def room(self, nbytes: int) -> memoryview | None:
        return None if self.is_over else self._writing.room(nbytes)

    def take(self, array: int, start: int, nbytes: int) -> None:
        self._writing.take(array, start, nbytes)
        try:
            self._disk.require_room(self._paths)
        except OSError as error:
            self._failure = error

    def finish(self) -> None:
        if self._failure is None:
            self._writing.finish()

    def open(self) -> OpenFile:
        return self._writing.open()

    def abandon(self) -> None:
        self._writing.abandon()
