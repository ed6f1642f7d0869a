"""What a worker exchanges with the shards: its step engine, and the connections around it.

A step pushes gradients and brings parameters (`pushes.py`). Between two steps a worker pulls all
values, or tells its own.
"""

from collections.abc import Sequence
from typing import Final

from leash._log import Say
from leash.ps._core import StepEngine
from leash.ps.errors import ArgumentError
from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import Init, Publish, Pull
from leash.ps.words import BETWEEN, WAITING
from leash.worker.client.carriers import Carriers
from leash.worker.client.control.membership import Membership
from leash.worker.client.data_driver import DataLane, uses_rings
from leash.worker.client.encoding import Encoding
from leash.worker.client.memory import Slab, SlabMemory
from leash.worker.client.remembered import Answered, merged
from leash.worker.client.sent_options import SentOptions
from leash.worker.client.step import Transport, attach_writer, make_engine, residual_for


class Exchange:
    """A worker's side of its data connections, which each hello begins anew.

    It knows which step is open, since a hello ends that too.

    Attributes:
        memory: the two slabs, and the outbox of a codec.
        encoding: the codec in which gradients travel, and its settings.
        residual: what the codec has left over of each value so far.
        options: the table of options by which the server applies steps.
        chunks: the layout's chunks, in the order of the slab.
        engine: says what goes out, and what an answer means.
        transport: how gradients travel now.
        steps: how many steps this worker has begun to push.
        is_step_open: whether the newest of them has not ended.
        answers: where the answers to that are written; None before the first.
        repeats: whether that is to be pushed again to another server.
        is_in_step: whether this process goes on in the step in which it was when it said hello.
        has_pulled: whether this process has reached every shard.
    """

    def __init__(
        self, member: Membership, carriers: Carriers, layout: Layout, memory: SlabMemory,
        encoding: Encoding, wants: str, say: Say,
    ) -> None:  # fmt: skip
        """Has no connection yet; `connect` makes them.

        Args:
            member: this process's part in the run.
            carriers: make the connections.
            layout: what a slab holds.
            memory: the two slabs, and the outbox if the codec is not f32.
            encoding: the codec in which gradients are to travel.
            wants: the transport, "auto", "tcp" or "shm".
            say: shows a line, such as why shared memory is not possible.
        """
        self.memory: Final = memory
        self.encoding: Encoding = encoding
        self.residual: Slab = residual_for(encoding, layout.nbytes)
        self.options: Final = SentOptions()
        self.is_step_open: bool = False
        self.answers: Slab | None = None
        self.repeats: bool = False
        self.is_in_step: bool = False
        self.has_pulled: bool = False
        self._member: Final = member
        self._carriers: Final = carriers
        self._layout: Final = layout
        self._wants: Final = wants
        self._say: Final = say
        self._published = 0  # how often this process has made its values everybody's
        self._lane: DataLane | None = None

    @property
    def lane(self) -> DataLane:
        """What carries the engine's messages; another one after each hello."""
        assert self._lane is not None
        return self._lane

    # Connections.

    def connect(self) -> None:
        """Begins with a server that has just welcomed this process, before its first step."""
        welcome = self._member.welcome
        self.chunks: tuple[Chunk, ...] = self._layout.cut(welcome.chunk_nbytes)
        self.steps: int = welcome.first_step - 1
        self.options.forget()
        self.is_step_open = self.is_in_step = False
        self._agree_on(welcome.codec)
        memory = self.memory
        self._carry(
            make_engine(
                self._layout, welcome, self.encoding, memory.whole, memory.map, self.residual
            )
        )
        if not self.repeats:
            self.transport: Transport = self._choose_transport()

    def go_on(self, engine: StepEngine, step: int | None) -> None:
        """Goes on with the engine of before, whose requests without an answer go again.

        Args:
            engine: what `engine` was before this process said hello again.
            step: the one that is open; None between two steps.
        """
        member, options = self._member, self.options
        due = options.due(member.rank, member.incarnation)
        engine.rejoin(
            member.incarnation,
            options.number,
            attach_writer(self.memory, member.rank, member.incarnation, has_rings=uses_rings()),
        )
        if step is not None:
            self.steps, self.is_step_open = step, True
            for request, payload in due:
                engine.set_options(request.number, encode(request), payload)
        self.close()
        self._carry(engine)

    def close(self) -> None:
        """Closes all connections; a second call does nothing."""
        if self._lane is not None:
            self._lane.close()

    def _carry(self, engine: StepEngine) -> None:
        lane = self._carriers.open_lane(
            self._member, engine, self.chunks, self.memory, has_pulled=self.has_pulled
        )
        self.engine: StepEngine
        self.engine, self._lane = engine, lane

    def _agree_on(self, codec: str) -> None:
        """Takes the codec that the server knows.

        Where that is the same as before, what error feedback holds back stays with this process
        when it says hello again.
        """
        if codec != self.encoding.codec:
            self._say(f"the server does not know {self.encoding.codec}: {codec} instead")
            self.encoding = Encoding(codec, answer_codec=self.encoding.answer_codec)
            self.residual = residual_for(self.encoding, self._layout.nbytes)

    def _choose_transport(self) -> Transport:
        if self._wants == "tcp":
            return Transport.tcp
        member = self._member
        why_not = self.lane.attach(self.memory, member.rank, member.incarnation)
        if why_not is None:
            return Transport.shm
        if self._wants == "shm":
            raise ArgumentError("transport", "shm", f"{why_not}; take auto or tcp")
        self._say(f"no shared memory with this server, so TCP: {why_not}")
        return Transport.tcp

    # Between steps.

    def pull(self, parameters: Slab) -> None:
        """Fills a slab with the values of all chunks as they are now.

        Args:
            parameters: a slab, overwritten chunk by chunk.
        """
        self.engine.pull(self._headers(Pull), parameters.data)
        self._await_answers()
        self.has_pulled = True

    def initialize(self, values: Slab) -> None:
        """Gives the model its first values.

        Args:
            values: a slab of them. Unchanged by others until this returns.
        """
        self.engine.tell(self._headers(Init), values.data)
        self._await_answers()

    def publish(self, values: Slab) -> None:
        """Makes values everybody's, in place of those that the server has.

        Args:
            values: a slab of them. Unchanged by others until this returns.
        """
        self._published += 1
        member, number = self._member, self._published
        headers = [
            encode(Publish(member.rank, member.incarnation, number, c.index, c.dtype))
            for c in self.chunks
        ]
        self.engine.tell(headers, values.data, number)
        self._await_answers()

    def offer(self, answered: Answered) -> None:
        """Offers a server that was started again what this worker was answered with.

        Args:
            answered: that.
        """
        headers = answered.offers(self.chunks, self._member.rank, self._member.incarnation)
        self.engine.tell(headers, answered.values.data)
        self._await_answers()

    def _headers(self, verb: type[Pull] | type[Init]) -> list[bytes]:
        worker, incarnation = self._member.rank, self._member.incarnation
        return [encode(verb(worker, incarnation, c.index, c.dtype)) for c in self.chunks]

    def _await_answers(self) -> None:
        """Waits for the answers to what is about all chunks, but is no step."""
        self._member.doing.begin(WAITING)
        self.lane.finish()
        self._member.doing.begin(BETWEEN)
        self.engine.forget()

    # What has come.

    def answered(self, kept: Slab) -> tuple[Slab, Sequence[tuple[int, int]]]:
        """What this worker was answered with, the answers to the open step included.

        Args:
            kept: the parameters with which that step began.

        Returns:
            A slab of it, and of each chunk its version and the step whose answer it was.
        """
        self.engine.settle_written()
        newest = self.engine.newest
        has_come = [self.is_step_open and step == self.steps for _, step in newest]
        if not any(has_come):
            return kept, newest
        assert self.answers is not None
        return merged(kept, self.answers, self.chunks, has_come), newest
