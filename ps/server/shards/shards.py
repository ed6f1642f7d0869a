"""All shards of a run as one: the one in the coordinator's process, and those in others.

A newcomer needs a first step that is new on every chunk of every shard. That takes two rounds.
First each shard keeps a place for the newcomer, at the largest clock that all of its chunks have
reached. Then the newcomer joins all shards at the largest of these clocks. A kept place holds back
the minimum of its chunks, so no chunk gets beyond that step in between, however fast others push.
"""

import bisect
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgpack
import numpy as np

from leash.ps.errors import LayoutMismatchError
from leash.ps.policy import Rule, message_fields
from leash.ps.runs.checkpoint import ChunkStore
from leash.ps.runs.snapshot import ChunkMoment
from leash.ps.server.shards.remote_shards import Notice, RemoteShard, RemoteShards
from leash.ps.shard.data_counts import DataCounts
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.members import Member, Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import ServedModel
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.shard_messages import (
    Align,
    Asked,
    CountHealed,
    Counts,
    CountUp,
    GiveUp,
    Happened,
    Heal,
    Hold,
    Join,
    LeastStep,
    Leave,
    OpenSnapshot,
    Release,
    Reserve,
    Serve,
    SetClock,
    SetRule,
    SkipHealed,
    Start,
    Stop,
    Unreading,
)

STALL_S: Final = 1.0  # if all workers wait and nothing moves for so long, they wait for each other


@dataclass(frozen=True)
class SharedModel:
    """The whole model over all shards. Implements leash.ps.runs.checkpoint.WholeModel."""

    served: ServedModel  # this process's part
    others: list[RemoteShard]

    @property
    def layout(self) -> Layout:
        return self.served.layout

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return self.served.chunks

    @property
    def chunk_nbytes(self) -> int:
        return self.served.chunk_nbytes

    @property
    def optimizer(self) -> str:
        return self.served.optimizer

    @property
    def state_names(self) -> list[str]:
        """The names of the optimizer's buffers, the same on every shard."""
        return self.served.state_names

    def shard_of(self, chunk: int) -> ChunkStore:
        """The shard that holds this chunk's numbers."""
        index = self._holder(chunk)
        return self.others[index - 1] if index else self.served.shard

    def open_snapshot(self) -> list[ChunkMoment]:
        """Opens a snapshot on every shard. REQUIRES: they are held, if it is to be of one moment.

        Raises:
            ShardLostError: one is lost.
        """
        for shard in self.others:
            shard.tell(OpenSnapshot())
        moments = self.served.open_snapshot()
        for shard in self.others:
            moments += shard.take_moments()
        return moments

    def read_snapshot(self, chunk: int, array: int, begin: int, out: memoryview) -> bool:
        """Copies bytes of a chunk, or asks its shard for them. Raises ShardLostError."""
        index = self._holder(chunk)
        if index:
            return self.others[index - 1].read_snapshot(chunk, array, begin, out)
        return self.served.read_snapshot(chunk, array, begin, out)

    def release_snapshot(self, chunk: int) -> None:
        """Has its shard let go of a chunk that was read."""
        index = self._holder(chunk)
        if index:
            self.others[index - 1].forget_snapshot(chunk)
        else:
            self.served.release_snapshot(chunk)

    def close_snapshot(self) -> None:
        """Has all shards let go of theirs."""
        self.served.close_snapshot()
        for shard in self.others:
            shard.forget_snapshot()

    def begin_at(self, clock: int) -> None:
        """Has the first workers begin after this clock. REQUIRES: none takes part yet."""
        self.served.begin_at(clock)
        for shard in self.others:
            shard.ask(SetClock(clock))

    def _holder(self, chunk: int) -> int:
        return bisect.bisect_right(self.served.first_chunks, chunk) - 1


class Shards:
    """Passes on what the coordinator tells its shards, and takes what they tell it.

    A method that waits for an answer raises ShardLostError; `lost` has the loss too, for the loop.
    """

    def __init__(
        self, data: DataDesk, data_port: int, remote: RemoteShards, members: Members,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self.ports: Final = [data_port, *remote.ports]
        self.asked: tuple[str, int] | None = (
            None  # the shard that got a signal to end, and the signal
        )
        self._data: Final = data
        self._remote: Final = remote
        self._members: Final = members
        self._metrics: Final = metrics
        self._counts: dict[int, Counts] = {}  # the newest of each shard
        self._waiting: dict[int, set[int]] = {}  # the workers that wait there, by the newest counts
        self._moved: tuple[object, float] = ((), math.inf)  # what was counted, and since when
        self._unreading: list[int] = []
        self._noted_loss = False

    # The model.

    def require_layout(self, layout: Layout) -> SharedModel:
        """Gives the run's model: makes it if this layout is the first, and checks every later one.

        Raises:
            LayoutMismatchError: the layout is another model's than the run's.
            LayoutError: there is no memory for the model.
        """
        if self._data.model is None:
            self._remote.ask(Serve(), layout.pack())
            self._data.make_model(layout)
        elif difference := self._data.model.layout.first_difference(layout):
            raise LayoutMismatchError(difference)
        assert self.model is not None
        return self.model

    @property
    def model(self) -> SharedModel | None:
        served = self._data.model
        return SharedModel(served, self._remote.all) if served else None

    @property
    def layout(self) -> Layout | None:
        return self._data.model.layout if self._data.model else None

    @property
    def version(self) -> int:
        """How many updates the model has seen, by the newest counts; the most of any chunk."""
        return max(self._data.version, *(counts.version for counts in self._counts.values()), 0)

    @property
    def first_chunks(self) -> list[int]:
        """The number of each shard's first chunk; [0] until there is a model."""
        return self._data.model.first_chunks if self._data.model else [0]

    @property
    def initialized(self) -> bool:
        """Whether every chunk of the model has its first values."""
        told = (shard.index in self._counts for shard in self._remote.all)
        others = all(told) and all(counts.initialized for counts in self._counts.values())
        return self._data.initialized and others

    # Who takes part.

    def join(self, member: Member) -> int:
        """Has all shards count a newcomer from now on; gives its first step, 0 for an observer."""
        first_step = 0 if member.is_observer else self._first_step()
        join = Join(member.worker, member.incarnation, member.name, first_step, member.key)
        self._remote.ask(join)
        if not member.is_observer:
            self._data.join(member.worker, first_step)
        return first_step

    def admit(self, member: Member) -> None:
        """Has all shards take messages of a worker that has no step to push yet."""
        self._remote.ask(Join(member.worker, member.incarnation, member.name, 0, member.key))
        self._data.admit(member.worker)

    # Healing: see leash.ps.recovery.

    def begin_healing(self, generation: int) -> None:
        """Has all shards take what workers offer, until training starts."""
        self._remote.ask(Heal(generation))
        self._data.begin_healing(generation)

    @property
    def healed_chunks(self) -> int:
        """How many chunks have got newer values from workers, on all shards."""
        return self._data.healed_chunks + sum(self._remote.ask(CountHealed()))

    @property
    def healed_step(self) -> int:
        """The smallest step that is in the chunks' values."""
        own, others = self._data.least_step, self._remote.ask(LeastStep())
        steps = [] if own is None else [own]
        return min(steps + [step - 1 for step in others if step])

    def begin_at(self, clock: int) -> None:
        """Has the first workers begin after this clock. REQUIRES: none takes part yet."""
        assert self.model is not None
        self.model.begin_at(clock)

    def skip_healed(self) -> None:
        """Has all shards count the steps as taken that are in the values of healed chunks."""
        self._remote.ask(SkipHealed())
        self._data.skip_healed()

    def _first_step(self) -> int:
        elsewhere = self._remote.ask(
            Reserve()
        )  # first, so that nothing is kept here if a shard is lost
        return max([self._data.reserve(), *elsewhere])

    def leave(self, member: Member, state: str) -> None:
        """Has nobody wait for this process from now on, on any shard."""
        self._remote.tell(Leave(member.worker, member.incarnation, state))
        if not member.is_observer:
            self._data.leave(member.worker)

    def start(self) -> None:
        """Begins training: when this returns, every shard knows."""
        self._remote.ask(Start())
        self._data.start()

    def set_rule(self, rule: Rule) -> None:
        """Changes the rule: when this returns, every shard goes by the new one."""
        self._remote.ask(SetRule(*message_fields(rule)))
        self._data.set_rule(rule)

    def end_stall(self, live: Iterable[int], now_s: float) -> bool:
        """Has workers go on that wait for each other, as they may under backup.

        Where a worker joins, leaves or is evicted, or backup is set, in the midst of a step, the
        number of gradients that a round takes changes. If the window is smaller than a step, some
        workers may then wait in rounds of one chunk, and others in rounds of another, so that none
        is ever complete. Their steps are given up, and all begin the next one together.

        Args:
            live: the workers that take part.
            now_s: the time.

        Returns:
            Whether they did wait for each other.
        """
        own = self._metrics.own
        counted = [(own.replies, own.bytes_pushed, self._data.parked)]
        counted += [(c.replies, c.bytes_pushed, c.parked) for c in self._counts.values()]
        if counted != self._moved[0]:
            self._moved = counted, now_s
        waiting = set(self._data.waiting).union(*self._waiting.values())
        if now_s - self._moved[1] < STALL_S or not waiting.issuperset(live):
            return False
        self._remote.ask(GiveUp())
        self._data.give_up_rounds()
        self._moved = (), now_s
        return True

    def stop(self, reason: str) -> None:
        """Has all shards refuse pushes from now on, for this reason."""
        self._data.stop(reason)
        self._remote.tell(Stop(reason))

    # What the other shards tell.

    def attend(self) -> None:
        """Takes what they have sent since the last call. Call it often."""
        for notice in self._remote.take_notices():
            self._on_notice(notice)
        lost = self._remote.lost
        if lost and not self._noted_loss:
            self._noted_loss = True
            self._metrics.shard_lost(lost.index, lost.pid, lost.how)

    def _on_notice(self, notice: Notice) -> None:
        shard, message, payload = notice
        match message:
            case Counts():
                self._on_counts(shard.index, message)
                self._waiting[shard.index] = set(np.frombuffer(payload or b"", "<u4").tolist())
            case Happened():
                self._metrics.happened(message.event, msgpack.unpackb(payload or b"\x80"))
            case Unreading():
                self._unreading.append(message.worker)
            case Asked():
                self.asked = f"shard {shard.index} (process {shard.pid})", message.signal

    def _on_counts(self, shard: int, counts: Counts) -> None:
        self._counts[shard] = counts
        self._members.note_heard(counts.heard)
        self._metrics.of_shards[shard] = DataCounts(
            counts.replies, counts.staleness_sum, counts.max_staleness, counts.max_lag,
            counts.duplicates, counts.nonfinite_chunks, counts.bytes_pushed,
            counts.bytes_answered, counts.dropped, Counter(counts.refusals),
        )  # fmt: skip

    def count_up(self) -> None:
        """Has all shards send their newest counts, and takes them."""
        self._remote.ask(CountUp())
        self.attend()

    def take_unreading(self) -> list[int]:
        """Takes the workers that have not read another shard's answers since the last call."""
        workers, self._unreading = self._unreading, []
        return workers

    @property
    def lost(self) -> str:
        """Says which shard is lost, and how; empty while all are there."""
        lost = self._remote.lost
        return lost.lost if lost else ""

    @property
    def processes(self) -> list[int]:
        """The process id of each shard."""
        return [os.getpid(), *(shard.pid for shard in self._remote.all)]

    def clocks(self, counts: Callable[[int], bool]) -> dict[int, int]:
        """How many steps each worker has taken, by the first chunk.

        Args:
            counts: whether a worker of this rank does.

        Returns:
            Rank ▸ steps.
        """
        model = self._data.model
        if model is None or not model.own:
            return {}
        by_worker = model.clocks(0).by_worker
        return {worker: clock for worker, clock in by_worker.items() if counts(worker)}

    def excuse(self, seconds: float) -> None:
        """Forgives the other shards seconds of silence in which this process did not listen."""
        for shard in self._remote.all:
            shard.excuse(seconds)

    @property
    def parked(self) -> int:
        """How many replies wait, on all shards together."""
        return self._data.parked + sum(counts.parked for counts in self._counts.values())

    def align(self, step: int = 0) -> bool:
        """Has all chunks come to one step, and stay there; call it again until they have.

        That is possible under bsp alone, and while workers go on. `go_on` lets the chunks go.

        Args:
            step: the least that will do.

        Returns:
            Whether they are there.
        """
        while True:
            own = self._data.align(step)
            others = [value - 1 for value in self._remote.ask(Align(step))]
            steps = [-1 if own is None else own, *others]
            if min(steps) == max(steps) >= 0:
                return True
            if max(steps) <= step:
                return False
            step = max(steps)  # a worker has left in the midst of a step, which others go on from

    def go_on(self) -> None:
        """Lets the shards go on that `align` holds, or would hold."""
        self._data.go_on()
        self._remote.tell(Release())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Has no shard take a message of a worker in this context, so that reads are consistent."""
        try:
            self._remote.ask(Hold())
            yield
        finally:
            self._remote.tell(Release())
