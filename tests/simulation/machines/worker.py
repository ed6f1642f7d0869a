"""A worker of a simulated run: real session and step engine, carried by events; a toy trains.

`SimulatedWorker._life` is what its process does, as a generator: it gives WAIT until something has
come, or so many seconds in which it computes and looks at nothing.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Final

import numpy as np

from leash.ps.errors import (
    EvictedError,
    LeashError,
    ProtocolError,
    RestartedError,
    SegmentError,
    ServerUnreachableError,
    StoppingError,
)
from leash.ps.policy import BSP
from leash.ps.wire.frames import REPLIES, decode, encode, error_from
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import (
    OVER,
    REST,
    RETURN,
    Attach,
    Attached,
    Error,
    Init,
    Leased,
    Pull,
    Report,
)
from leash.ps.wire.requester import NEVER_S, Requester
from leash.ps.wire.segment import NONCE_NBYTES, SegmentMap, create_segment
from leash.worker.client.control.seat import Seat
from leash.worker.client.control.session import BYE_S, Session, as_member
from leash.worker.client.encoding import Encoding
from leash.worker.client.remembered import Answered, Counted, merged
from leash.worker.client.step import make_engine, residual_for
from simulation.checks.book import Book, Memory, Place
from simulation.checks.oracle import Wrong
from simulation.checks.toy import first_values, toy_of
from simulation.machines.network import CONNECTED, Frames, Wire
from simulation.machines.world import Process
from simulation.scenario import Scenario

WAIT: Final = -1.0
AT_ONCE: Final = 4  # a worker that only waits has no more requests in flight
WAIT_S: Final = 400.0  # for the answer to the first hello: longer than any outage
BYE_AGAIN_S: Final = 3.0
LOOK_S: Final = 0.2
REST_S: Final = 0.05
STOP_S: Final = 2.0
TOPK_RATIO: Final = 0.25
CONTROL: Final = -1  # the port of a wire: this one, or that of a shard

Life = Generator[float, None, None]
Connect = Callable[[Process, int, int, Callable[[Frames], None], Callable[[str], None]], Wire]


class Carrier:
    """Carries what a requester sends and gets, over one connection after the other."""

    def __init__(self, worker: "SimulatedWorker", requester: Requester) -> None:
        self.requester: Final = requester
        self._worker: Final = worker
        self._process: Final = worker.process
        self._wakes_s = NEVER_S
        self._is_closed = False
        self._is_going_on = False
        self._connect()

    def go_on(self) -> None:
        """Sends what is due, and comes back when something will be."""
        if self._is_closed:
            return
        self._is_going_on = True
        self.wire.look()  # as the production driver does before it sends
        requester, now_s = self.requester, self._process.clock()
        frames = requester.next(now_s)
        if frames is not None and not self.wire.send_up(list(frames)):
            requester.put_back()
            requester.lost()
        self._is_going_on = False
        if requester.renews:
            self.wire.close()
            requester.lost()
            self._connect()
        wakes_s = max(requester.wake_s, now_s + 0.001)
        if wakes_s < self._wakes_s:
            self._wakes_s = wakes_s
            self._process.at(wakes_s, self._wake, wakes_s)

    def close(self) -> None:
        self._is_closed = True
        self.wire.close()

    def _wake(self, wakes_s: float) -> None:
        if wakes_s == self._wakes_s:
            self._wakes_s = NEVER_S
            self.go_on()
            self._worker.go_on()

    def _connect(self) -> None:
        self.wire = self._worker.connect(CONTROL, self._take, self._hear)

    def _take(self, frames: Frames) -> None:
        if not self._is_closed:
            self.requester.receive(frames, self._process.clock())
            self.go_on()
            self._worker.go_on()

    def _hear(self, event: str) -> None:
        if event == CONNECTED:
            self.requester.connected()
        else:
            self.requester.lost()
        if not self._is_going_on:
            self.go_on()


class SimulatedWorker:
    """One rank, over all processes that it has."""

    def __init__(
        self, rank: int, process: Process, layout: Layout, scenario: Scenario, book: Book,
        connect: Connect, draw: Callable[[], int], say: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        """Args:
        rank: its number.
        process: its process, in one life after the other.
        layout: of the model.
        scenario: what is trained, and how fast.
        book: is told what it pushes and is answered.
        connect: connects it with a socket of the server.
        draw: draws the number of a hello.
        say: takes a line for the trace.
        on_end: called when its process has ended by itself.
        """
        self.machine: Final = rank  # its number; its rank, unless the server gives that
        self.rank: int = rank
        self.process: Final = process
        self.comes_back_s: float | None = None  # if it is told to go: so long after it has gone
        self.has_never_begun = True
        self.where = "has not begun"  # what it does, for people
        self._connect: Final = connect
        self._on_end: Final = on_end
        self.failure: LeashError | None = None  # what ended its newest process
        self.failed_where = ""  # what it did when it failed
        self.is_told_to_go = False
        self.lacks_key = False  # whether its key was revoked, and it has no other
        self.has_lost_steps = False  # whether a process of it gave up one, or did not end its work
        self.has_told = False  # whether its bye was answered
        self.is_out_of_patience = False  # whether its newest process that took part gave up
        self._layout: Final = layout
        self._scenario: Final = scenario
        self._book: Final = book
        self._draw: Final = draw
        self._say: Final = say
        self._batch: Final = scenario.batches[rank - 1]
        self._compute_s: Final = scenario.compute_s[rank - 1]
        self._codec: Final = scenario.codec
        self._share_begins: Final = sum(scenario.batches[: rank - 1]) * scenario.steps_of_epoch
        self._memory: Memory | None = None
        self._residual: Any = None
        self._life: Life | None = None
        self._has_rank = not scenario.any_rank
        self._waits = False
        self._looks_in_life = 0  # the life of the process in which it will look around; 0: in none

    # Its process.

    def start(self) -> None:
        """A process begins."""
        self.has_never_begun = False
        self.failure = None
        self.comes_back_s = None
        self.is_told_to_go = self.has_told = False
        self._session = Session(
            0 if self._scenario.any_rank else self.machine, f"worker {self.machine}", self._layout,
            self._draw, self._scenario.patience_s, any_rank=self._scenario.any_rank,
            seat=Seat(f"host-{self.machine}/0", f"seat {self.machine}"),
        )  # fmt: skip
        self._carriers: list[Carrier] = []
        self._wires: list[Wire] = []
        self._engine: Any = None
        # What it remembers of the run, as the production client does.
        self._answered: Answered | None = None  # until a server has given newer parameters
        self._begins_at = 0, 0  # completed epochs of its share, and samples of the next one
        self._generation = 0  # of the server that gave what this process has
        self._counted = Counted()
        self._lost = 0  # steps without an answer that are not pushed again
        self._next = 0  # the step that it pushes next if all go on in lockstep; 0 for none
        self._is_begun = False  # it has begun to push that
        self._is_in_step = False  # all go on in lockstep, and this worker with that step
        self._is_step_open = False
        self._repeats = False  # whether the open step is to be pushed again to another server
        self._has_pulled = False
        self._life = self._live()
        self._is_known = False  # whether the book knows of this process
        self._waits = True
        self.go_on()

    def kill(self, spared: int) -> None:
        """Its process ends at once; of each connection so many messages still go."""
        self.process.kill()
        self.has_lost_steps = True
        self._life = None
        self.where = "was killed"
        self._let_go_of_memory()
        for wire in (*(c.wire for c in self._carriers), *self._wires):
            wire.lose(spared, 0)
            wire.close()

    @property
    def has_ended(self) -> bool:
        """Whether no process of this rank runs, nor will."""
        return self._life is None

    @property
    def is_done(self) -> bool:
        """Whether its newest process has come to the end of its work."""
        return self.where.startswith("ends: done")

    @property
    def stays_away(self) -> bool:
        """Whether it was killed, told to go, or not let in any more, and not started again."""
        was_told = self.is_told_to_go or self.lacks_key
        return self._life is None and (not self.process.is_alive or was_told)

    def connect(
        self, port: int, take: Callable[[Frames], None], hear: Callable[[str], None]
    ) -> Wire:
        """Connects with one of the server's sockets."""
        return self._connect(self.process, self.machine, port, take, hear)

    def go_on(self) -> None:
        """Goes on if it waits for anything to happen."""
        if self._waits:
            self._resume()

    def _resume(self, _: None = None) -> None:
        if self._life is None:
            return
        self._waits = False
        try:
            pause_s = next(self._life)
        except StopIteration:
            self._life = None
            if self.comes_back_s is not None:
                self.process.after(self.comes_back_s, self._come_back)
                self._life = iter(())  # type: ignore[assignment]
            self._on_end()
            return
        if pause_s == WAIT:
            self._waits = True
        else:
            self.process.after(pause_s, self._resume)

    def _come_back(self, _: None) -> None:
        self._say("is started again")
        self.process.kill()
        self.process.restart()
        self.start()

    def _live(self) -> Life:
        reason = "failed"
        try:
            yield from self._train()
            reason = "stopped" if self.is_told_to_go else "done"
        except LeashError as error:
            self.failure, self.failed_where = error, self.where
            self.is_out_of_patience |= isinstance(error, ServerUnreachableError)
            reason = "stopped" if isinstance(error, StoppingError) else "failed"
        self.where = f"ends: {reason} {self.failure or ''}"
        self._say(self.where)
        yield from self._leave(reason)

    def _leave(self, reason: str) -> Life:
        limit_s = self._scenario.patience_s if reason == "done" else STOP_S
        until_s = self.process.clock() + limit_s
        if reason == "done" and self._answered is None:
            self._answered = self._remembered()
        yield from self._part(limit_s)
        if self._session.welcome is not None:
            yield from self._say_bye(reason, until_s if reason == "done" else 0.0)
            while reason == "done" and isinstance(self._session.error, RestartedError):
                yield from self._say_bye_elsewhere(until_s)
        for carrier in self._carriers:
            carrier.close()
        self._let_go_of_memory()
        self._residual = None

    def _say_bye(self, reason: str, until_s: float) -> Life:
        while True:
            left_s = until_s - self.process.clock()
            self._session.want_bye(reason, min(BYE_AGAIN_S, max(BYE_S, left_s)))
            yield from self._until(lambda: not self._session.is_wanting)
            self.has_told = self._session.error is None
            if self._session.silence is None or self.process.clock() >= until_s:
                return

    def _say_bye_elsewhere(self, until_s: float) -> Life:
        """Says bye to a server that was started again, which first is told what it forgot."""
        try:
            yield from self._join()
            with suppress(EvictedError):  # it was started once more
                yield from self._await_values(self._slabs[0])
        except LeashError:
            yield from self._part()
            self._session.error = None
            return
        yield from self._part()
        yield from self._say_bye("done", until_s)

    def _part(self, limit_s: float = STOP_S) -> Life:
        """Ends the connections of one incarnation."""
        for wire in self._wires:
            wire.close()
        self._wires = []
        self._engine = None
        for carrier in self._carriers[1:]:
            beats = self._session.beats
            assert beats is not None
            until_s = self.process.clock() + limit_s
            if limit_s < math.inf:
                self.process.at(until_s, self._look)
            while self.process.clock() < until_s:
                beats.stop()
                carrier.go_on()
                if beats.is_over:
                    break
                yield WAIT
            carrier.close()
        del self._carriers[1:]

    def _until(self, is_reached: Callable[[], bool]) -> Life:
        for carrier in self._carriers:
            carrier.go_on()
        while not is_reached():
            yield WAIT

    def _look(self, _: None) -> None:
        self.go_on()

    # Joining.

    def _join(self) -> Life:
        while True:
            try:
                yield from self._join_once()
            except EvictedError:  # noqa: PERF203
                yield from self._part()
            else:
                return

    def _join_once(self) -> Life:
        session = self._session
        if not self._carriers:
            self._carriers.append(Carrier(self, session))
        codecs = ("f32",) if self._codec == "f32" else (self._codec, "f32")
        session.want_hello(codecs, WAIT_S if session.welcome is None else self._scenario.patience_s)
        yield from self._until(lambda: not session.is_wanting)
        if session.error is not None:
            raise session.error
        welcome = session.welcome
        assert welcome is not None
        assert session.beats is not None
        self._keep_rank(welcome.worker)
        self.is_out_of_patience = False
        self._beats = session.beats
        self._carriers.append(Carrier(self, self._beats))
        self._chunks = self._layout.cut(welcome.chunk_nbytes)
        self._toy = toy_of(self._scenario.layout, self.rank)
        self._allocate()
        encoding = Encoding(welcome.codec, topk_ratio=TOPK_RATIO)
        if self._residual is None or welcome.codec != self._codec:
            self._residual = residual_for(encoding, self._layout.nbytes)
        self._engine = make_engine(
            self._layout, welcome, encoding, self._memory.bytes, self._memory.places,
            self._residual,
        )  # fmt: skip
        self._step = welcome.first_step - 1
        self._begins_at = welcome.epochs, welcome.samples
        self._is_step_open = self._is_in_step = False
        self._failed: LeashError | None = None
        self._connect_shards(len(welcome.data_ports))
        if self._scenario.transport == "shm" and not self._repeats:
            yield from self._attach()
        if welcome.heals:
            yield from self._tell_what_is_remembered()
        else:
            self._next, self._is_begun = 0, False

    def _connect_shards(self, shards: int) -> None:
        for wire in self._wires:
            wire.close()
        self._wires = []
        self._inbox: deque[tuple[int, Frames | str]] = deque()
        self._is_pumping = False
        self._lost_s: dict[int, float] = {}
        for shard in range(shards):
            self._lost_s[shard] = self.process.clock()
            self._wires.append(
                self.connect(
                    shard,
                    lambda frames, shard=shard: self._on_data(shard, frames),  # type: ignore[misc]
                    lambda event, shard=shard: self._on_data(shard, event),  # type: ignore[misc]
                )
            )  # fmt: skip

    def _tell_what_is_remembered(self) -> Life:
        """Offers a server that was started again what this process was answered with."""
        session, counted = self._session, self._counted
        if self._answered is not None:
            offers = self._answered.offers(self._chunks, self.rank, session.incarnation)
            self._engine.tell(offers, self._answered.values)
            yield from self._pump()
        session.want_remember(
            self._lost, counted.epochs, counted.of_epoch, counted.of_lease,
            (counted.newest_lease, counted.holder), self._next, self._scenario.patience_s,
            begun=self._is_begun,
        )  # fmt: skip
        yield from self._until(lambda: not session.is_wanting or self._beats.error is not None)
        self._check()
        if session.error is not None:
            raise session.error

    def _keep_rank(self, rank: int) -> None:
        """Goes by the rank that the server has given.

        A machine always gets the same one, unless the disk did not take the server's journal.
        """
        if self._has_rank and rank != self.rank and not self._book.may_forget:
            raise Wrong(f"machine {self.machine} had rank {self.rank}, and comes back as {rank}")
        self.rank, self._has_rank = rank, True
        if not self._is_known:
            self._is_known = True
            self._book.note_process(rank)

    def _allocate(self) -> None:
        """Makes the memory of this process, as one that a server may map."""
        if self._memory is None:
            nbytes = self._layout.nbytes
            places = SegmentMap(nbytes, self._codec != "f32")
            self._nonce = self._draw().to_bytes(NONCE_NBYTES, "little")
            self._fd, segment = create_segment(places.nbytes, self._nonce)
            memory = np.frombuffer(segment, np.uint8)
            self._memory = Memory(memory, places)
            self._slabs = [memory[places.slab(i) : places.slab(i) + nbytes] for i in range(2)]
        self._book.note_memory(self.rank, self._memory)

    def _let_go_of_memory(self) -> None:
        """Closes what a dead process has open."""
        if self._memory is not None:
            os.close(self._fd)
            self._memory = None

    def _attach(self) -> Life:
        """Has every shard map this worker's memory, or stays with TCP if one cannot."""
        assert self._memory is not None
        engine = self._engine
        self._nonces: list[str] = []
        engine.attach(self._write_attach)
        try:
            yield from self._pump()
        except SegmentError:
            engine.forget()
            return
        if set(self._nonces) == {self._nonce.hex()}:
            engine.keep_attached()
        else:
            engine.forget()

    def _write_attach(self, _: int, number: int) -> bytes:
        assert self._memory is not None
        fd = self._fd if self._scenario.can_attach else 0
        return encode(
            Attach(
                self.rank, self._session.incarnation, os.getpid(), fd, self._memory.places.nbytes,
                self._nonce.hex(), number,
            )
        )  # fmt: skip

    def _await_values(self, own: Any) -> Life:
        """Waits until training goes on and the model has values, which may be this process's."""
        beats = self._beats
        yield from self._until(
            lambda: (
                beats.error is not None
                or (
                    (b := beats.beaten) is not None
                    and b.started
                    and (b.initialize or b.initialized)
                )
            )
        )
        self._check()
        beaten = beats.beaten
        assert beaten is not None
        if beaten.first_step:
            self._step, self._is_in_step = beaten.first_step - 1, beaten.in_step
            self._has_told()
            self._begins_at = beaten.epochs, beaten.samples
        if beaten.initialize and not beaten.initialized:
            self._engine.tell(self._headers(Init), own)
            yield from self._pump()

    def _pull(self, parameters: Any) -> Life:
        self._engine.pull(self._headers(Pull), parameters)
        yield from self._pump()
        self._has_now()
        self._has_pulled = True
        self._book.note_end_of_step(self.rank, 0, self._slabs[0], parameters)

    def _has_now(self) -> None:
        """Notes that this process has what this server has."""
        welcome = self._session.welcome
        assert welcome is not None
        self._generation, self._answered = welcome.generation, None
        self._has_told()
        self._counted.lease(0, 0)

    def _has_told(self) -> None:
        """Notes that a server has counted which steps this worker has lost."""
        self._lost, self._next, self._is_begun = 0, 0, False

    def _headers(self, verb: type[Init] | type[Pull]) -> list[bytes]:
        incarnation = self._session.incarnation
        return [encode(verb(self.rank, incarnation, c.index, c.dtype)) for c in self._chunks]

    def _check(self) -> None:
        if self._beats.error is not None:
            raise self._beats.error

    # Carrying.

    def _on_data(self, shard: int, what: Frames | str) -> None:
        """Takes an answer, or news of a connection, once the worker's thread looks."""
        if not self._is_pumping:
            self._inbox.append((shard, what))
            return
        self._handle(shard, what)
        if self._failed is not None or self._engine.is_done:
            self.go_on()

    def _handle(self, shard: int, what: Frames | str) -> None:
        engine = self._engine
        if isinstance(what, str):
            if what == CONNECTED:
                self._lost_s.pop(shard, None)
                engine.connected(shard)
            else:
                self._lost_s[shard] = self.process.clock()
                engine.lost(shard)
        elif (notice := engine.receive(shard, what)) is not None:
            self._on_notice(shard, notice, what)
        self._send_due(shard)

    def _on_notice(self, shard: int, notice: Any, frames: Frames) -> None:
        if notice.kind == "look":
            self._wires[shard].look()
        elif notice.kind == "refused":
            refused = error_from(Error(notice.code, notice.text, 0, 0, 0, notice.clock))
            self._failed = as_member(refused)
        else:
            answer = decode(frames[0], REPLIES)
            if not isinstance(answer, Attached):
                self._failed = ProtocolError(f"unexpected {answer.verb}")
            elif self._engine.attached(shard, answer.number):
                self._nonces.append(answer.nonce)

    def _send_due(self, shard: int) -> None:
        engine, wire = self._engine, self._wires[shard]
        while (due := engine.next(shard, self._most)) is not None:
            header, payload = due
            wire.send_up([header] if payload is None else [header, bytearray(payload)])

    def _advance(self) -> None:
        """Sends what may go, and takes what has come, between two pieces of work."""
        self._most = 1 << 31
        while self._inbox:
            self._handle(*self._inbox.popleft())
        for shard in range(len(self._wires)):
            self._send_due(shard)

    def _pump(self) -> Life:
        """Waits until everything is answered."""
        self._advance()
        self._most = AT_ONCE
        self._is_pumping = True
        self._look_later()
        while self._failed is None and not self._engine.is_done:
            yield WAIT
            if self._beats.error is not None:
                self._failed = self._failed or self._beats.error
            lost_s = min(self._lost_s.values(), default=self.process.clock())
            if self.process.clock() - lost_s > self._scenario.patience_s:
                self._failed = ServerUnreachableError("no connection")
        self._is_pumping = False
        if self._failed is not None:
            failed, self._failed = self._failed, None
            if not isinstance(failed, RestartedError):  # the open step may go to another server
                self._engine.forget()
            raise failed

    def _look_later(self) -> None:
        """Has it look around once more, unless it will already, on behalf of an earlier wait."""
        if self._looks_in_life != self.process.life:
            self._looks_in_life = self.process.life
            self.process.after(LOOK_S, self._look_around)

    def _look_around(self, _: None) -> None:
        self._looks_in_life = 0
        if self._is_pumping:
            self.go_on()
        if self._is_pumping:
            self._look_later()

    # Training.

    def _train(self) -> Life:
        self.where = "begins"
        yield from self._join()
        while True:
            try:
                first_values(self._chunks, self._slabs[0])
                yield from self._await_values(self._slabs[0])
                yield from self._pull(self._slabs[0])
                break
            except EvictedError:
                yield from self._part()
                yield from self._join()
        self.where = "trains"
        if self._scenario.data_plan == "lease":
            yield from self._train_on_leases()
        else:
            yield from self._train_on_share()

    def _rejoin(self) -> Life:
        self._say("joins again")
        self.has_lost_steps = True
        self.where = "joins again"
        self._book.note_break(self.rank)
        self._repeats = False
        if self._is_step_open:
            self._lost, self._next = max(self._lost, 1), 0
        elif self._has_pulled and self._is_in_lockstep and not self._next:
            self._next = self._step + 1
        while True:
            try:
                yield from self._join_again()
                yield from self._pull(self._slabs[1])
                break
            except EvictedError:
                self._say("is evicted while it joins again")
        self._slabs.reverse()
        self.where = "trains"

    def _join_again(self) -> Life:
        """Offers what this process remembers, if it is asked, and waits until training goes on."""
        if self._answered is None:
            self._answered = self._remembered()
        while True:
            yield from self._part()
            yield from self._join()
            try:
                yield from self._await_values(self._answered.values)
            except EvictedError:
                continue
            return

    @property
    def _is_in_lockstep(self) -> bool:
        welcome = self._session.welcome
        return welcome is not None and welcome.settings.get("policy") == BSP.name

    def _go_on_elsewhere(self, step: int, *, is_open: bool) -> Life:
        """Joins a server that was started again, and goes on there as if it were the same one."""
        engine, before, incarnation = self._engine, self._session.welcome, self._session.incarnation
        assert before is not None
        self._say("goes on with a server that was started again")
        self._lost = min(1, engine.settle_written())
        self._next, self._is_begun = step, is_open
        self._repeats = True
        try:
            yield from self._join_again()
        finally:
            self._repeats = False
        welcome = self._session.welcome
        assert welcome is not None
        is_same = (welcome.first_chunks, welcome.codec) == (before.first_chunks, before.codec)
        if not self._is_in_step or not is_same:
            raise RestartedError(f"the others have gone on without step {step}")
        if is_open:
            self._book.note_repeat(self.rank, step, incarnation, self._session.incarnation)
            self._step, self._is_step_open = step, True
        engine.rejoin(self._session.incarnation, 0, self._write_attach)
        self._engine = engine
        self._connect_shards(len(welcome.data_ports))
        self._has_now()

    def _remembered(self) -> Answered:
        """What this process was answered with, the answers to the open step included."""
        self._engine.settle_written()
        newest, (parameters, answers) = self._engine.newest, self._slabs
        answered = [self._is_step_open and step == self._step for _, step in newest]
        values = merged(parameters, answers, self._chunks, answered)
        return Answered(values, newest, self._generation)

    def _train_on_share(self) -> Life:
        scenario = self._scenario
        share = self._batch * scenario.steps_of_epoch
        self._tell("plan", scenario.epochs, share)
        completed, done = self._begins_at
        for epoch in range(completed + 1, scenario.epochs + 1):
            while done < share:
                places = [
                    (epoch, self._share_begins + n)
                    for n in range(done, min(done + self._batch, share))
                ]
                try:
                    yield from self._take_step(places)
                    done += len(places)
                except EvictedError:
                    yield from self._rejoin()
                if self._is_to_go():
                    return
            done = 0
            self._tell("epoch", epoch, share)

    def _train_on_leases(self) -> Life:
        while not self._is_to_go():
            try:
                leased = yield from self._ask_for_lease()
                if leased.order == OVER:
                    return
                yield from self._follow(leased)
            except EvictedError:  # noqa: PERF203
                yield from self._rejoin()

    def _ask_for_lease(self) -> Generator[float, None, Leased]:
        scenario, session = self._scenario, self._session
        self._check()
        session.want_lease(
            scenario.samples, scenario.epochs, self._batch, self._batch / self._compute_s
        )
        yield from self._until(lambda: not session.is_wanting or self._beats.error is not None)
        self._check()
        if session.error is not None:
            raise session.error
        assert session.leased is not None
        self._counted.lease(session.leased.number, session.incarnation)
        return session.leased

    def _follow(self, leased: Leased) -> Life:
        """Does what the answer to a request for a lease says."""
        if leased.order == REST:
            yield REST_S
        elif leased.order == RETURN:
            yield from self._rejoin()
        else:
            positions = range(leased.first, leased.first + leased.count)
            for batch in in_batches(positions, leased.batch_size):
                yield from self._take_step([(leased.epoch, n) for n in batch])
                if self._is_to_go():
                    return

    def _is_to_go(self) -> bool:
        """Whether it was told to go, by a person here or by the server."""
        beaten = self._beats.beaten
        self.is_told_to_go |= beaten is not None and bool(beaten.leave)
        return self.is_told_to_go

    def _take_step(self, places: list[Place]) -> Life:
        """Computes a step, pushes it, and has the parameters of the answer."""
        scenario = self._scenario
        try:
            self._check()
        except RestartedError:
            if not self._is_in_lockstep:
                raise
            yield from self._go_on_elsewhere(self._step + 1, is_open=False)
        engine = self._engine
        step = self._step = self._step + 1
        parameters, gradients = self._slabs
        incarnation = self._session.incarnation
        is_absent = scenario.is_absent(self.rank, step)
        pushed = self._toy.gradients(parameters, step, is_absent=is_absent)
        gradients[:] = pushed.slab
        self._book.note_step(self.rank, incarnation, step, places, parameters, pushed)
        chunks = len(self._chunks)
        pieces = min(scenario.pieces, chunks)
        for piece in range(pieces):
            yield self._compute_s / pieces
            if piece == 0:
                engine.begin(
                    step, len(places), gradients, gradients, absent={0} if is_absent else (),
                    held=parameters if scenario.absent_every else None,
                )  # fmt: skip
                self._is_step_open = True
            engine.ready(chunks - chunks * (piece + 1) // pieces)
            if not self._repeats:
                self._advance()
            if self._failed is not None:
                failed, self._failed = self._failed, None
                if not (self._is_in_lockstep and isinstance(failed, RestartedError)):
                    raise failed
                self._repeats = True
        yield from self._finish_pushes(step)
        self._is_step_open = False
        self._counted.step(len(places))
        engine.finish()
        self._slabs.reverse()
        self._book.note_end_of_step(self.rank, step, parameters, gradients)

    def _finish_pushes(self, step: int) -> Life:
        while True:
            if self._repeats:
                yield from self._go_on_elsewhere(step, is_open=True)
            try:
                yield from self._pump()
            except RestartedError:
                if not self._is_in_lockstep:
                    raise
                self._repeats = True
            else:
                return

    def _tell(self, kind: str, epoch: int, samples: int) -> None:
        report = Report(
            self.rank, self._session.incarnation, kind, epoch, self._step, samples, 0.0, 0.0,
            0.0, 0.0,
        )  # fmt: skip
        if kind == "epoch":
            self._counted.epoch(epoch)
        self._beats.tell(report)
        self._carriers[1].go_on()


def in_batches(positions: range, size: int) -> Iterator[range]:
    """Cuts positions into batches; a single one that is left over joins the batch before it."""
    begin = 0
    while begin < len(positions):
        end = begin + size
        if len(positions) - end == 1 and size > 1:
            end += 1
        yield positions[begin:end]
        begin = end
