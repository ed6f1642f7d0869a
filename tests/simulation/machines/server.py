"""The server of a simulated run: the engines of the real one, carried by events instead of sockets.

::

    control wires ──▸ RunEngine.answer
    data wires of shard 0 ──▸ Watch ──▸ RunEngine.data
    data wires of shard k ──▸ Watch ──▸ LinkedShard.data ◂── ShardLink ──▸ RunEngine
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgpack
from safetensors.numpy import load

from leash.ps.errors import UsageError
from leash.ps.options.server import ServerOptions
from leash.ps.policy import message_fields
from leash.ps.runs.checkpoint import newest_whole
from leash.ps.runs.journal import NAME as JOURNAL
from leash.ps.runs.journal import Memory, begin_journal
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unwritten import TRY_AGAIN_S
from leash.ps.server.loop import SHARD_RESTARTS
from leash.ps.server.run_engine import RunEngine
from leash.ps.server.shards.remote_shards import Notice, RemoteShard, RemoteShards
from leash.ps.shard.linked_shard import COUNTS_S, LinkedShard, unpacked_settings
from leash.ps.wire.messages import Message, Report
from leash.ps.wire.shard_link import LinkClosedError
from leash.ps.wire.shard_messages import Begin, Done
from simulation.checks.book import Book
from simulation.checks.oracle import NaiveChunk, Wrong
from simulation.checks.permits import Permits
from simulation.checks.watch import Watch
from simulation.machines.disk import FULL, MemoryDisk
from simulation.machines.keys import Keys
from simulation.machines.network import Frames
from simulation.machines.world import Process

PORT: Final = 5000  # of the control socket; those of the shards follow
FIRST_INCARNATION: Final = 1_000_000
RUN_DIR: Final = Path("/run")
JOURNALED: Final = (b"hello", b"bye", b"set")  # verbs of what a journal tells
BATCH: Final = 16  # messages of a data socket after which the engine has its turn

Arrived = tuple[bytes, Frames]  # a route, and what came from there
Forward = Callable[[bytes, Frames], None]


class ShardProcess:
    """A further shard, and the link to it. Implements `remote_shards.ShardLink`."""

    def __init__(self, index: int, server: "SimulatedServer", process: Process) -> None:
        self.process: Final = process
        self.watch: Final = Watch(
            index, server.book, server.forward, process, server.user_of, server.permits
        )
        self.shard: LinkedShard | None = None
        self.held: Final[deque[Arrived]] = deque()
        self.pid: Final = 70_000 + index
        self._server: Final = server
        self._since_tell = 0
        self._is_initialized = False  # the server is told of that at once
        self._told: Final[deque[tuple[Message, Any]]] = deque()  # what the server has not read yet

    # What the coordinator's side does.

    def send(self, message: Message, payload: Any = None) -> None:
        self._require_alive()
        if isinstance(message, Begin):
            self._begin(message, unpacked_settings(payload))
            return
        assert self.shard is not None
        copied = bytearray(payload) if payload is not None else None
        answer = self.shard.answer(message, copied)
        self._told.extend(self.shard.take_notices())
        if answer is not None:
            self._told.append(answer)
        self._after()

    def receive(self, wait_s: float) -> tuple[Message, bytearray | None] | None:
        if self._told:
            message, payload = self._told.popleft()
            return message, bytearray(payload) if payload is not None else None
        self._require_alive()
        if wait_s:
            self._server.process.busy(wait_s)
        return None

    def ending(self) -> str:
        return "killed by SIGKILL"

    def kill(self) -> None:
        self.process.kill()

    def let_go(self) -> None:
        self.process.kill()

    def reap(self) -> None:
        """Does nothing: a simulated process leaves nothing."""

    # What its own loop does.

    def take(self, arrived: Arrived) -> None:
        """Takes a message of a worker."""
        shard = self.shard
        assert shard is not None
        if shard.is_held:
            self.held.append(arrived)
            return
        self.watch.receive(*arrived)
        self._since_tell += 1
        if self._since_tell >= BATCH or not self._is_initialized:
            self._is_initialized = shard.data.initialized
            self._tell()

    def _begin(self, begin: Begin, options: ServerOptions) -> None:
        self.shard = LinkedShard(
            begin.shard, options, self.watch.send, self.process.clock, self._server.keyring
        )
        self.watch.bind(self.shard.data, self.shard.members, self.shard.metrics)
        self._told.append((Done(begin.port), None))
        self.process.after(COUNTS_S, self._tick)

    def _tick(self, _: None) -> None:
        self._tell()
        self.process.after(COUNTS_S, self._tick)

    def _tell(self) -> None:
        assert self.shard is not None
        self._since_tell = 0
        self.shard.advance()
        before = len(self._told)
        self._told.extend(self.shard.take_notices())
        if len(self._told) > before:
            self._server.process.take(self._server.attend, None)

    def _after(self) -> None:
        """Takes the messages that waited, once nothing holds the shard any more."""
        assert self.shard is not None
        while self.held and not self.shard.is_held:
            self.watch.receive(*self.held.popleft())

    def _require_alive(self) -> None:
        if not self.process.is_alive:
            raise LinkClosedError("it has ended")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was when a checkpoint was begun."""

    chunks: dict[int, NaiveChunk]
    done: dict[int, bytes]  # by epoch, for which positions leases were over


class SimulatedServer:
    """All processes of a server, over its restarts."""

    def __init__(
        self, process: Process, options: ServerOptions, book: Book, disk: MemoryDisk,
        forward: Forward, say: Callable[[str], None], on_end: Callable[[], None],
        on_abandon: Callable[[], None], keys: Keys | None, user_of: Callable[[bytes], str],
    ) -> None:  # fmt: skip
        """Args:
        process: its first one.
        options: what it is started with.
        book: what is known of the workers.
        disk: of its host.
        forward: brings an answer to the network.
        say: takes the lines that it shows.
        on_end: called when it has ended by itself.
        on_abandon: called when it has lost a shard, so that it is to begin again.
        keys: whom it lets in; None for everybody.
        user_of: gives the key of who sends over a route; empty without keys.
        """
        self.process: Final = process
        self.book: Final = book
        self.forward: Final = forward
        self.user_of: Final = user_of
        self.keyring: Final = None if keys is None else keys.ring
        self.permits: Final = None if keys is None else Permits(keys)
        self.ended: str = ""
        self.status: int | None = None
        self._options = options
        self._disk: Final = disk
        self._say: Final = say
        self._on_end: Final = on_end
        self._on_abandon: Final = on_abandon
        self._unwritten = b""  # by a server that this one takes over from
        self.lost_shards = 0  # for which it has begun again, without having been started again
        self._since_advance = 0
        self.has_lost_work = False  # what was trained after a checkpoint, since nobody had it
        # What the parameters were when each checkpoint was begun: of those in their places, and of
        # the one that is being written.
        self._snapshots: Final[dict[Path, Snapshot]] = {}
        self._begun = Snapshot({}, {})

    def start(self, memory: Memory | None = None) -> None:
        """Begins, or goes on from its newest checkpoint.

        Args:
            memory: of the servers before it.
        """
        self.ended, self.status = "", None
        self._has_ended = False  # what it leaves is still being written
        if self.permits is not None:
            self.permits.forget()
        self._resumed = Snapshot({}, {})
        if self._options.resume is not None:
            self._resumed = self._snapshots[Path(self._options.resume)]
        self.book.note_new_server({n: c.generation for n, c in self._resumed.chunks.items()})
        self.shards: list[ShardProcess] = []
        self.held: deque[Arrived] = deque()
        self.watch = Watch(
            0, self.book, self.forward, self.process, self.user_of, self.permits
        )  # fmt: skip
        clock = self.process.clock
        run_dir = RunDir(RUN_DIR, self._disk, goes_on=True)
        remote = RemoteShards(self._options, PORT + 2, self._start_shard)
        self.run = RunEngine(
            self._options, run_dir, remote, PORT + 1, self.watch.send, say=self._say,
            disk=self._disk, now=clock, uptime=clock, wall_time_us=self._wall_time_us,
            keyring=self.keyring, may_begin_again=self.lost_shards < SHARD_RESTARTS,
            memory=memory,
        )  # fmt: skip
        self.watch.go_by(self.run.rule)  # which may have been set while an earlier server ran
        self.watch.bind(self.run.data, self.run.members, self.run.metrics)
        self.watch.on_start = self._note_start
        self._watch_reports()
        if self._options.resume is not None:
            self._check_resumed(self._resumed.chunks)
        if self.run.metrics.started:
            self._note_start()  # it has begun as it was made: there was nobody to wait for
        self._disk.on_kept, self._disk.on_begun = self._note_written, self._note_begun
        self._disk.on_progress = self._advance_unless_ended
        self._tick(None)

    def _watch_reports(self) -> None:
        """Has the book hear of each report that is counted."""
        metrics = self.run.metrics
        count = metrics.report

        def watched(report: Report) -> None:
            self.book.note_report(report.worker, report.incarnation, report.number)
            count(report)

        setattr(metrics, "report", watched)  # noqa: B010

    @property
    def held_up_s(self) -> float:
        """For how long its processes were paused or busy so far, all together."""
        processes = [self.process, *(shard.process for shard in self.shards)]
        return sum(process.held_up_s for process in processes)

    @property
    def chunks(self) -> dict[int, NaiveChunk]:
        """What the oracle knows of all chunks."""
        watches = [self.watch, *(shard.watch for shard in self.shards)]
        return {index: naive for watch in watches for index, naive in watch.chunks.items()}

    def _note_begun(self, _: Sequence[Path]) -> None:
        """Notes what the parameters are, where a checkpoint of them is begun."""
        chunks = {n: naive.copied() for n, naive in self.chunks.items()}
        self._begun = Snapshot(chunks, self.book.done())

    def _note_written(self, path: Path) -> None:
        if path.suffix == ".safetensors":
            self._snapshots[path] = self._begun
            if not self._disk.fault:
                self._check_values(path)

    def _check_resumed(self, snapshot: dict[int, NaiveChunk]) -> None:
        for index, naive in self.chunks.items():
            naive.check_values(snapshot[index].values)
            if naive.version != snapshot[index].version:
                raise Wrong(f"chunk {index}: resumed with version {naive.version}, not "
                            f"{snapshot[index].version}")  # fmt: skip

    def check_final(self) -> None:
        """Checks the last checkpoint against the parameters. REQUIRES: the disk spoils nothing."""
        path = RUN_DIR / "checkpoints" / "final.safetensors"
        if path not in self._disk.files:
            if self.run.shards.initialized and not self.run.shards.lost:
                raise Wrong("the run has ended without its last checkpoint")
            return
        self._check_values(path)

    def _check_values(self, path: Path) -> None:
        """Checks that a checkpoint has the parameters of the moment at which it was begun."""
        tensors = load(self._disk.files[path])
        for index, naive in self._snapshots[path].chunks.items():
            naive.check_values(tensors[self.book.layout.slots[index].name])

    def _note_start(self) -> None:
        """Checks, where training goes on with another server, that it has what its workers have."""
        chunks = self.chunks.values()
        for member in self.run.members.live:
            for naive in chunks:
                if naive.values is not None:
                    self.book.check_healed(member.worker, naive.chunk, naive.values)
        is_healed = any(naive.is_healed for naive in chunks)
        if is_healed:
            self.book.go_on({} if self.book.may_forget else None)
        else:
            self.book.go_on(self._resumed.done)
            self.has_lost_work = self.book.generation > 1
        for naive in chunks:
            naive.is_healed = False

    def _start_shard(self, index: int, on_notice: Callable[[Notice], None]) -> RemoteShard:
        process = Process(self.process.world, f"shard {index}")
        self.shards.append(ShardProcess(index, self, process))
        return RemoteShard(index, self.shards[-1], on_notice, self.process.clock)

    def _wall_time_us(self) -> int:
        return FIRST_INCARNATION * self.process.life + int(1e6 * self.process.world.now_s)

    # Messages.

    def take_control(self, arrived: Arrived) -> None:
        """Answers a message of the control socket."""
        route, frames = arrived
        user, permits = self.user_of(route), self.permits
        asked = msgpack.unpackb(frames[0]) if permits is not None else {}
        may = permits.may(asked, user) if permits is not None else None
        before = self._digest(heard=True) if may is False else None
        _, header, payload = self.run.answer(route, frames[0], frames[1:], user)
        if self.run.is_abandoned:
            self._abandon()
            return
        if permits is not None:
            permits.check(may, asked, msgpack.unpackb(header))
        if may is False and self._digest(heard=True) != before:
            raise Wrong(f"a message that is not allowed changed something: {asked}")
        if b"lease" in frames[0] or b"hello" in frames[0]:
            self._note_granted(header, frames[0], user)
        if any(verb in frames[0] for verb in JOURNALED):
            self._check_journal()
            self._check_rules()
        self.forward(route, [header] if payload is None else [header, payload])
        self._advance()

    def _check_journal(self) -> None:
        """Checks that a server that is started again knows what anybody was told by this one."""
        run = self.run
        if self._disk.fault == FULL or run.coordinator.standing.unwritten.lasting:
            return
        journal = self._disk.files[RUN_DIR / JOURNAL]
        lines = [json.loads(line) for line in journal.split(b"\n") if line]
        states: dict[int, str] = {}
        rule = list(message_fields(self._options.rule))
        for line in lines:
            if line["what"] in ("joined", "left"):
                states[line["worker"]] = line.get("state", "live")
            elif line["what"] == "rule":
                rule = line["set"]
        for worker, member in run.members.workers.items():
            if states.get(worker) != member.state:
                raise Wrong(f"worker {worker} is {member.state}, and by the journal "
                            f"{states.get(worker, 'unknown')}")  # fmt: skip
        if rule != list(message_fields(run.rule)):
            raise Wrong(f"the run goes by {run.rule}, and by the journal {rule}")

    def _check_rules(self) -> None:
        """Checks that every shard goes by the rule that is the run's. Without all it ends."""
        if self.run.shards.lost:
            return
        for watch in (self.watch, *(shard.watch for shard in self.shards)):
            if watch.rule != self.run.rule and watch.process.is_alive:
                raise Wrong(f"shard {watch.shard} goes by {watch.rule}, the run by {self.run.rule}")

    def take_strange(self, frames: Frames, user: str) -> None:
        """Takes a control message that has to be refused; nothing may change.

        Args:
            frames: of the message.
            user: the key of its sender; empty without keys.
        """
        before = self._digest()
        _, header, _ = self.run.answer(b"stranger", frames[0], frames[1:], user)
        verb = msgpack.unpackb(header)["t"]
        if verb != "error":
            raise Wrong(f"answered {verb} to a message that is to be refused: {frames[0]!r}")
        if self._digest() != before:
            raise Wrong(f"a message that was refused changed something: {frames[0]!r}")

    def _digest(self, *, heard: bool = False) -> Any:
        """Everything that a control message may change, as the server itself tells it.

        Args:
            heard: whether signs of life count.
        """
        run = self.run
        run.data.settle()
        members = [
            (
                m.worker,
                m.incarnation,
                m.state,
                m.number,
                m.first_step,
                m.reported,
                m.phase,
                m.heard_s if heard else 0.0,
            )
            for m in (*run.members.workers.values(), *run.members.observers.values())
        ]
        metrics = run.metrics
        counts = metrics.epoch, metrics.samples_twice, metrics.steps, metrics.samples
        chunks = [watch.digest() for watch in (self.watch, *(s.watch for s in self.shards))]
        journal = self._disk.files.get(RUN_DIR / JOURNAL)
        asked = run.coordinator.asked_to_stop, run.coordinator.saves.awaited
        ranks = dict(run.identities.ranks)
        return (
            members, repr(run.coordinator.continuation.position()), run.rule, counts, chunks,
            journal, asked, ranks,
        )  # fmt: skip

    def _note_granted(self, header: bytes, request: bytes, user: str) -> None:
        """Notes an incarnation that was given, or samples that were leased."""
        answer, asked = msgpack.unpackb(header), msgpack.unpackb(request)
        if answer["t"] == "leased":
            self.book.note_leased(asked["incarnation"], answer)
        elif answer["t"] == "welcome":
            self.book.note_welcome(asked["worker"], asked["number"], answer["incarnation"])
            if self.permits is not None:
                self.permits.note_welcome(user, asked["worker"], answer["incarnation"])

    def take_data(self, arrived: Arrived) -> None:
        """Takes a message of shard 0's data socket."""
        run = self.run
        if run.is_held:
            self.held.append(arrived)
            return
        self.watch.receive(*arrived)
        self._since_advance += 1
        if self._since_advance >= BATCH or run.wait_s < 0.1:
            self._advance()

    def attend(self, _: None) -> None:
        """Takes what the other shards tell."""
        self.run.attend_shards()
        self._advance()

    def _advance(self) -> None:
        self._since_advance = 0
        self.run.advance()
        if self.run.is_abandoned:
            self._abandon()
            return
        while self.held and not self.run.is_held:
            self.watch.receive(*self.held.popleft())
        for shard in self.shards:
            if shard.held:
                shard._after()
        if self._has_ended:
            if not self.run.is_writing:
                self._close()
        elif self.run.is_over:
            self._has_ended = True
            self.run.finish()
            self.run.write_results()
            if not self.run.is_writing:
                self._close()

    def _advance_unless_ended(self) -> None:
        if self.status is None:
            self._advance()

    def _tick(self, _: None) -> None:
        self._advance()
        if self.status is None:
            self.process.after(self.run.wait_s, self._tick)

    def _close(self) -> None:
        self.run.close()
        self.ended, self.status = self.run.ended, self.run.status
        self.process.kill()
        for shard in self.shards:
            shard.process.kill()
        self._on_end()

    def kill(self) -> None:
        """Ends its first process at once; the others end when they see that."""
        for request in self.chunks[0].requests if 0 in self.chunks else ():
            if request.contributes:  # to a mean that nobody will take
                self.book.note_left_out(request.worker, request.step)
        self.process.kill()
        for shard in self.shards:
            shard.process.kill()

    def _abandon(self) -> None:
        """Ends all its processes, since a shard is lost; the first one is to `begin_again`."""
        self._say(f"{self.run.shards.lost}; all processes of the server begin again")
        self.lost_shards += 1
        self.run.close()
        self._unwritten = self.run.unwritten
        self.kill()
        self._on_abandon()

    def restart(self) -> None:
        """Starts it again as people do: from the newest checkpoint, if there is one."""
        self.lost_shards, self._unwritten = 0, b""
        self.begin_again()

    def begin_again(self) -> None:
        """Goes on from the newest checkpoint, if there is one, with new shards."""
        self.book.may_forget |= self._disk.was_full
        try:
            run_dir = RunDir(RUN_DIR, self._disk, goes_on=True)
        except UsageError:
            if b'"ended": "done"' not in self._disk.files.get(RUN_DIR / "summary.json", b""):
                raise
            self.ended, self.status = "done", 2  # it was killed when it had done all
            self._on_end()
            return
        newest = newest_whole(run_dir.checkpoints, self._say, self._disk)
        self._options = replace(self._options, resume=str(newest) if newest else None)
        try:
            memory = begin_journal(run_dir.journal, self._disk, self._unwritten)
        except OSError as error:
            self._say(f"waits for its disk: {error}")
            self.process.world.after(TRY_AGAIN_S, lambda _: self.begin_again())
            return
        self._unwritten = b""
        self.process.restart()
        self.start(memory)
