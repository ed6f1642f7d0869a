"""A worker's client in virtual time: its engines, with simulated connections instead of sockets."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from leash._log import Say
from leash.ps._core import StepEngine
from leash.ps.errors import LeashError, ProtocolError
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.frames import REPLIES, decode, error_from
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import U32_MAX, Beaten, Error, OptionsSet, Report
from leash.ps.wire.requester import Requester
from leash.worker.client import Client
from leash.worker.client.carriers import Carriers
from leash.worker.client.control.departure import Departure
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.liveness import STOP_S, Liveness
from leash.worker.client.control.membership import Membership
from leash.worker.client.control.seat import NOWHERE, Seat
from leash.worker.client.control.session import Beats, as_member
from leash.worker.client.data_driver import AT_ONCE
from leash.worker.client.memory import SlabMemory
from leash.worker.virtual.network import Connection, Frames, Network
from leash.worker.virtual.server import VirtualServer
from leash.worker.virtual.world import Fiber, World

ADDRESS: Final = "tcp://127.0.0.1:1"  # of no server
NO_SHARED_MEMORY: Final = "simulated machines share no memory"


class Machine:
    """One simulated machine: its program, and its way to the server.

    Attributes:
        world: in whose time it runs.
        fiber: its program; there once that has begun.
        client: by which it takes part in the run; None before it does.
    """

    def __init__(self, world: World, network: Network, server: VirtualServer, rank: int) -> None:
        """Runs nothing yet.

        Args:
            world: in whose time it runs.
            network: between it and the server.
            server: of the run.
            rank: the worker's; 0 for an observer.
        """
        self.world: Final = world
        self.rank: Final = rank
        self._network: Final = network
        self._server: Final = server
        self._fiber: Fiber | None = None
        self.client: Client | None = None

    def start(self, body: Callable[[], None]) -> None:
        """Begins a program.

        Args:
            body: the program.
        """
        name = f"worker {self.rank}" if self.rank else "evaluator"
        self._fiber = self.world.spawn(name, body)

    def tell_to_leave(self) -> None:
        """Tells its program to leave the run, if it takes part."""
        if self.client is not None:
            self.client.tell_to_leave("SIGTERM")

    @property
    def fiber(self) -> Fiber:
        """Its program. REQUIRES: it has begun."""
        assert self._fiber is not None
        return self._fiber

    def connect_control(self, hear: Callable[[Frames], None]) -> Connection:
        """Connects with the server's control socket.

        Args:
            hear: takes the answers.
        """
        return self._network.connect(self.rank, self._server.take_control, hear, carries_data=False)

    def connect_data(self, hear: Callable[[Frames], None]) -> Connection:
        """Connects with the server's data socket.

        Args:
            hear: takes the answers.
        """
        return self._network.connect(self.rank, self._server.take_data, hear, carries_data=True)


class RequestLine:
    """Carries the requests of one requester after the other, over one connection at a time."""

    def __init__(self, machine: Machine) -> None:
        """Carries nothing yet.

        Args:
            machine: whose connection it is.
        """
        self._machine: Final = machine
        self._requester: Requester | None = None
        self._connection = self._new_connection()

    def follow(self, requester: Requester) -> None:
        """Carries what this requester says from now on.

        Args:
            requester: says what goes, and when.
        """
        self._requester = requester
        requester.lost()
        requester.connected()

    def pump(self) -> None:
        """Sends what is to go now."""
        requester = self._requester
        assert requester is not None
        while True:
            frames = requester.next(self._machine.world.now_s)
            if frames is not None:
                self._connection.send(list(frames))
            elif requester.renews:
                self._connection = self._new_connection()
                requester.lost()
                requester.connected()
            else:
                return

    def _new_connection(self) -> Connection:
        def hear(frames: Frames) -> None:
            if connection is self._connection and self._requester is not None:
                self._requester.receive([bytes(f) for f in frames], self._machine.world.now_s)
                self.on_answer()
                self._machine.fiber.wake()

        connection = self._machine.connect_control(hear)
        return connection

    def on_answer(self) -> None:
        """Does what follows an answer: nothing, if a fiber waits for it."""


class VirtualControl(ControlChannel):
    """The control connection of a fiber."""

    def __init__(
        self, machine: Machine, context: "zmq.Context[zmq.Socket[bytes]] | None" = None
    ) -> None:
        """Connects.

        Args:
            machine: whose connection it is.
            context: of the client; no socket is made.
        """
        super().__init__(ADDRESS, context)
        self._machine: Final = machine
        self._line: Final = RequestLine(machine)

    def carry(self, requester: Requester) -> None:
        """Carries the request that is due, and its repetitions, until it has come to an end.

        Args:
            requester: says what to send, and when.
        """
        world, fiber = self._machine.world, self._machine.fiber
        self._line.follow(requester)
        requester.begin(world.now_s)
        while requester.is_busy:
            self._line.pump()
            fiber.wait_until(lambda: not requester.is_busy, requester.wake_s)


class _BeatLine(RequestLine):
    """Carries beats and reports, which no fiber waits for."""

    def __init__(self, machine: Machine, beats: Beats) -> None:
        self._beats: Final = beats
        self._timer_s = math.inf  # when it looks again
        super().__init__(machine)

    def on_answer(self) -> None:
        self.advance()

    def advance(self) -> None:
        """Sends what is to go now, and looks again when the beats say so."""
        self.pump()
        wake_s = self._beats.wake_s
        if wake_s < self._timer_s:
            self._timer_s = wake_s
            self._machine.world.at(wake_s, self._on_timer)

    def _on_timer(self) -> None:
        if self._machine.world.now_s >= self._timer_s:
            self._timer_s = math.inf
            self.advance()
            self._machine.fiber.wake()


class VirtualLiveness(Liveness):
    """A worker's signs of life, sent by events instead of a thread."""

    def __init__(self, machine: Machine, beats: Beats) -> None:
        """Connects; `start` sends the first.

        Args:
            machine: whose beats they are.
            beats: says what is to be sent, and when.
        """
        super().__init__(ADDRESS, beats)
        self._machine: Final = machine
        self._line: Final = _BeatLine(machine, beats)

    def start(self) -> None:
        """Sends the first beat."""
        self._line.follow(self._beats)
        self._line.advance()

    def stop(self, limit_s: float = STOP_S, is_over: Callable[[], bool] = lambda: False) -> None:
        """Ends, after the reports that wait have gone out.

        Args:
            limit_s: seconds to wait for that.
            is_over: is not asked: no server goes in virtual time before its workers.
        """
        self._beats.stop()
        self._line.advance()
        until_s = self._machine.world.now_s + limit_s
        self._machine.fiber.wait_until(lambda: self._beats.is_over, until_s)

    @property
    def has_ended(self) -> bool:
        """False: nobody else carries these beats."""
        return False

    @property
    def failure(self) -> LeashError | None:
        """What ended this worker's part in the run, if anything has."""
        return self._beats.error

    def tell(self, report: Report) -> None:
        """Queues a report, which is sent soon.

        Args:
            report: takes the place of a training report that has not gone out yet.
        """
        self._beats.tell(report)
        self._line.advance()

    @property
    def has_failed(self) -> bool:
        """Whether anything has ended this worker's part in the run."""
        return self._beats.error is not None

    def check(self) -> None:
        """Raises what ended this worker's part in the run, if anything has.

        Raises:
            LeashError: what the beats met, such as a server that stops.
        """
        if self._beats.error is not None:
            raise self._beats.error

    def wait_until(
        self, is_reached: Callable[[Beaten], bool], on_wait: Callable[[Beaten | None], None]
    ) -> Beaten:
        """Waits for an answer to a beat that says what the caller waits for.

        Args:
            is_reached: says of an answer whether it is the one.
            on_wait: is not called: nobody watches a machine in virtual time.

        Returns:
            The answer that satisfies `is_reached`.

        Raises:
            LeashError: what ended this worker's part in the run.
        """

        def has_come() -> bool:
            return self.beaten is not None and is_reached(self.beaten)

        self._machine.fiber.wait_until(lambda: has_come() or self.has_failed)
        if not has_come():
            self.check()
        assert self.beaten is not None
        return self.beaten

    def pause(self, seconds: float) -> None:
        """Waits for an answer or an error, but not longer than this."""
        before = self.beaten
        until_s = self._machine.world.now_s + seconds
        self._machine.fiber.wait_until(
            lambda: self.beaten is not before or self.has_failed, until_s
        )


class VirtualDriver:
    """Carries the messages of a worker's step engine over one simulated connection.

    Implements leash.worker.client.data_driver.DataLane. What is sent is copied, as over TCP.
    """

    def __init__(
        self, machine: Machine, engine: StepEngine, liveness: VirtualLiveness,
        check: Callable[[], None],
    ) -> None:  # fmt: skip
        """Connects.

        Args:
            machine: whose connection it is.
            engine: says what to send.
            liveness: of the same worker.
            check: raises when this worker takes part no more.
        """
        self._machine: Final = machine
        self._engine: Final = engine
        self._liveness: Final = liveness
        self._check: Final = check
        self._failure: LeashError | None = None
        self._most = U32_MAX  # how many requests may be in flight
        self._is_closed = False
        self._connection: Final = machine.connect_data(self._hear)
        engine.connected(0)

    def close(self) -> None:
        """Hears nothing from now on."""
        self._is_closed = True

    def advance(self) -> None:
        """Sends what the window allows. Never waits.

        Raises:
            ProtocolError: the server refused a request, or its answer is not one to what was asked.
        """
        self._most = U32_MAX
        self._send()
        self._raise_failure()

    def finish(self) -> float:
        """Sends all requests, and waits for all answers.

        Returns:
            Seconds spent waiting for answers.

        Raises:
            LeashError: the server refused a request, or this worker takes part no more; what was
                in flight is forgotten.
        """
        world, began_s = self._machine.world, self._machine.world.now_s
        self._most = AT_ONCE
        try:
            self._send()
            self._machine.fiber.wait_until(self._is_finished)
            self._raise_failure()
            if not self._engine.is_idle(0):
                self._check()
        except BaseException:
            self._engine.forget()
            raise
        return world.now_s - began_s

    def attach(self, memory: SlabMemory, worker: int, incarnation: int) -> str | None:
        """Shares nothing.

        Args:
            memory: the worker's slabs.
            worker: the rank.
            incarnation: of this process.

        Returns:
            Why it is not possible.
        """
        return NO_SHARED_MEMORY

    def _is_finished(self) -> bool:
        has_failed = self._failure is not None or self._liveness.has_failed
        return has_failed or self._engine.is_idle(0)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _send(self) -> None:
        while (outgoing := self._engine.next(0, self._most)) is not None:
            header, payload = outgoing
            frames: Frames = [header]
            if payload is not None:
                frames.append(bytearray(payload))
            self._connection.send(frames)

    def _hear(self, frames: Frames) -> None:
        if self._is_closed:
            return
        try:
            self._take(frames)
            self._send()
        except LeashError as error:
            self._failure = error
        self._machine.fiber.wake()

    def _take(self, frames: Frames) -> None:
        notice = self._engine.receive(0, frames)
        if notice is None or notice.kind == "look":
            return
        if notice.kind == "refused":
            raise as_member(error_from(Error(notice.code, notice.text, 0, 0, 0, notice.clock)))
        message = decode(bytes(frames[0]), REPLIES)
        if not isinstance(message, OptionsSet):
            raise ProtocolError(f"unexpected {message.verb}")
        self._engine.options_set(0, message.number)


class VirtualCarriers(Carriers):
    """Makes what carries the messages of a client on a simulated machine: no sockets."""

    def __init__(self, machine: Machine, patience_s: float, say: Say) -> None:
        """Opens nothing yet.

        Args:
            machine: on which the client runs.
            patience_s: for how long a worker keeps trying.
            say: shows a line.
        """
        super().__init__(ADDRESS, None, patience_s, say)
        self._machine: Final = machine

    def make_departure(self, grace_s: float, _: str | os.PathLike[str] | None) -> Departure:
        """Makes what knows whether this worker was told to go; it leaves in its own time.

        Args:
            grace_s: how long it may take. No signal ends a simulated machine after that.
        """
        return Departure(grace_s, now=self._machine.world.clock, end=lambda: None)

    def take_seat(self) -> Seat:
        """Takes no place: a simulated machine keeps its rank by its number."""
        return NOWHERE

    def open_control(self) -> ControlChannel:
        """Makes the control connection of the machine's fiber."""
        return VirtualControl(self._machine, self.context)

    def open_liveness(self, beats: Beats, departure: Departure, doing: Doing) -> Liveness:
        """Makes what beats for one incarnation, by events.

        Args:
            beats: says what is to be sent, and when.
            departure: hears nothing.
            doing: is told to nobody.
        """
        return VirtualLiveness(self._machine, beats)

    def open_lane(
        self, member: Membership, engine: StepEngine, chunks: Sequence[Chunk],
        memory: SlabMemory, *, has_pulled: bool,
    ) -> VirtualDriver:  # fmt: skip
        """Connects a step engine with the server.

        Args:
            member: the client's part in the run, which has said hello.
            engine: says what to send.
            chunks: the layout's.
            memory: nobody maps it.
            has_pulled: makes no difference.
        """
        assert isinstance(member.liveness, VirtualLiveness)
        return VirtualDriver(self._machine, engine, member.liveness, member.check)


class VirtualClient(Client):
    """A worker or an observer of a run in virtual time. A fiber uses it."""

    def __init__(self, machine: Machine, layout: Layout, **settings: Any) -> None:
        """Joins the run.

        Args:
            machine: on which it runs.
            layout: of its model.
            settings: further arguments of `Client`.

        Raises:
            LeashError: what `Client` raises.
        """
        self._machine: Final = machine
        super().__init__(
            ADDRESS, layout, rank=machine.rank, name=f"machine {machine.rank}",
            **{**settings, "transport": "tcp"},
        )  # fmt: skip
        machine.client = self

    def _make_carriers(self, patience_s: float) -> Carriers:
        return VirtualCarriers(self._machine, patience_s, self._say)
