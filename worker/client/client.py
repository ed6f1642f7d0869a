"""A process's part in a run: hello, push, pull, report, bye. Knows numpy, not torch.

::

    client = Client(address, layout, rank=1)
    client.begin(parameters)                        # waits for the others; fills the slab
    info = client.push_pull(gradients, parameters, samples=100)
    client.close("done")

A step may also be a stream, in which chunks leave as they become ready::

    client.begin_step(gradients, parameters, samples=100)
    client.advance(first_ready=7)                   # the chunks from 7 to the last; never waits
    info = client.finish_step()
"""

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, SupportsIndex

import zmq

from leash._log import logged, say_on_stderr
from leash.ps._core import StepEngine
from leash.ps.errors import (
    ArgumentError,
    EvictedError,
    LeashError,
    NotReadyError,
    RestartedError,
    StoppingError,
    UsageError,
)
from leash.ps.options.addresses import RANK_MEND, split_address
from leash.ps.policy import BSP
from leash.ps.processes import PREEMPT_FILE_VARIABLE
from leash.ps.wire import hosts
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.frames import encode
from leash.ps.wire.keys import key_for
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import (
    STOPPED_BY_TIMEOUT,
    Beaten,
    Init,
    Leased,
    Publish,
    Pull,
    Report,
    Welcome,
)
from leash.ps.wire.options_table import OptionsTable
from leash.ps.wire.sockets import host_and_port
from leash.ps.words import BETWEEN, DONE, STOPPED, TIMED_OUT, WAITING
from leash.worker.client.arguments import (
    check_connection,
    checked_grace,
    checked_patience,
    checked_rank,
    checked_samples,
)
from leash.worker.client.data_driver import RECONNECT_S, DataDriver, DataLane
from leash.worker.client.departure import Departure
from leash.worker.client.doing import Doing
from leash.worker.client.encoding import Encoding
from leash.worker.client.liveness import STOP_S, Liveness
from leash.worker.client.memory import Slab, SlabMemory
from leash.worker.client.remembered import Answered, Counted, merged
from leash.worker.client.seat import NOWHERE, Seat, take_seat
from leash.worker.client.sent_options import SentOptions
from leash.worker.client.session import ANSWER_S, BYE_S, Beats, Session
from leash.worker.client.step import Transport, attach_writer, make_engine, residual_for
from leash.worker.client.waiting import Outage, Waiting, awaited

TOO_LATE: Final = (
    "the server was started again, and the others have gone on without step {} of this worker"
)
CLOSED: Final = "closed: this worker has left the run; make a new one to take part again"
FORKED: Final = (
    "process {} joined the run, and this one, {}, was forked from it: no connection outlives a "
    "fork; use it there, or join from here under a rank of its own"
)
# Who has come to the end of its work tells so as long as it is patient: others wait for that.
AT_THE_END: Final = (DONE, TIMED_OUT)
BYE_AGAIN_S: Final = 3.0  # meanwhile it looks so often whether the server is gone
GONE_S: Final = 5.0  # a server whose host refuses connections for so long has ended


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What happened to one step of a worker, by the replies to its push.

    Attributes:
        step: the number of the push, from 1.
        version: how many updates the model had seen when the replies went out; the most over
            chunks, since one whose slots have no gradient sees none.
        lag: how many steps this worker was ahead of the slowest; the largest over chunks.
        staleness: how many updates by others came between this worker's last pull and this push;
            the largest over chunks.
        wait_s: seconds spent waiting for the replies.
    """

    step: int
    version: int
    lag: int
    staleness: int
    wait_s: float


class Client:
    """One worker or observer in one run: the protocol, over slabs of bytes instead of tensors.

    `PSOptimizer` is built on it. Use it for training without torch, or to watch a run. A client
    belongs to one thread; another, which it starts, sends its beats. Slabs are flat arrays of
    uint8 with the layout's ``nbytes``.

    Examples:
        With a server on this host, started by ``leash server --lr 0.1``:

        >>> import numpy as np
        >>> from leash import Client
        >>> from leash.ps.wire.layout import Layout, Slot
        >>> layout = Layout([Slot("weights", "f32", (4,))])
        >>> client = Client("tcp://127.0.0.1:29500", layout, rank=1)
        >>> slab = np.zeros(layout.nbytes, np.uint8)
        >>> weights = slab.view(np.float32)
        >>> client.begin(slab)
        >>> for _ in range(10):
        ...     weights[:] = 2 * (weights - 1)  # the gradient of (weights - 1)²
        ...     info = client.push_pull(slab, slab, samples=1)
        >>> client.close()
        >>> [f"{weight:.2f}" for weight in weights]
        ['0.89', '0.89', '0.89', '0.89']

    Attributes:
        address: of the server's control socket, tcp://HOST:PORT.
        key: by which this process comes; None without one.
        layout: what a slab holds.
        rank: the worker's number, from 1; 0 for an observer. One that takes any rank may get
            another one when it joins again.
        departure: knows whether this worker was told to go.
        memory: the two slabs, and the outbox of a codec, that a server on this host may map.
        residual: what the codec has left over of each value so far, laid out like a slab; empty for
            a codec without error feedback.
        welcome: what the server told when this process said hello last.
        chunks: the layout's chunks, in the order of the slab.
        steps: how many steps this worker has begun to push.
        doing: what the thread that trains does now; the server hears of it with each beat.
        deadline_s: on ``time.monotonic()``; from then on `check` ends this worker's part.
        transport: how gradients travel now.
    """

    def __init__(
        self, address: str, layout: Layout, *, rank: SupportsIndex | Literal["auto"] = 0,
        wait_s: float | None = None,
        patience: float | None = None, grace_s: float | None = None,
        preempt_file: str | os.PathLike[str] | None = None, name: str | None = None,
        transport: str = "auto",
        encoding: Encoding | None = None, memory: SlabMemory | None = None,
        say: Callable[[str], None] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        """Joins the run: says hello, connects to every shard, and begins to send beats.

        Args:
            address: of the control socket, tcp://HOST:PORT.
            layout: of this process's model; the run has one layout.
            rank: the worker's number, from 1; 0 for an observer; "auto" for the one that the server
                gives, which a machine that comes back keeps.
            wait_s: seconds to wait for the server to answer, and in `begin` for the other workers.
                Without it the server has 30, and `begin` waits as long as it takes.
            patience: seconds for which a worker that takes part keeps trying when nobody answers;
                ``math.inf`` for ever. Without it LEASH_PATIENCE counts, or else 600.
            grace_s: a worker that is told to go has so many seconds; then it leaves wherever it
                waits, or its process is ended. Without it LEASH_GRACE counts, or else 10.
            preempt_file: this worker is told to go once this file is there. Without it the one that
                LEASH_PREEMPT_FILE names, if it is set.
            name: tells people which process this is; host and process number by default.
            transport: "tcp"; "shm", shared memory with a server on this host; or "auto", which
                takes shared memory where that is possible.
            encoding: the codec in which gradients travel, and its settings; f32 by default.
            memory: whose slabs are to be shared with the server; by default this client makes it.
                Other slabs are copied to and from there. It has an outbox if the codec is not f32.
            say: shows a line, such as why shared memory is not possible. By default it appears on
                stderr, unless the logger "leash" has a handler.
            key: the file of this process's key, for a server that has keys; by default the one
                that the environment variable ``LEASH_KEY`` names, if it is set.

        Raises:
            ServerUnreachableError: no server answered.
            LayoutMismatchError: the run has another model.
            ProtocolError: the server refuses, and says why.
            ArgumentError: the address, the rank, the transport, `wait_s`, `patience` or `grace_s`
                cannot be, or the transport is "shm" and that is not possible here.
            UsageError: the key file cannot be used, or the server does not let this key in.
        """
        given = checked_rank(rank, least=0)
        is_given = not isinstance(given, str)
        self.rank: int = 0 if isinstance(given, str) else given
        check_connection(address, transport, wait_s)
        self._patience_s: Final = checked_patience(patience)
        self.address: Final = address
        self.key: Final = key_for(key)
        self.layout: Final = layout
        self._wait_s: Final = wait_s
        self._process: Final = os.getpid()
        self.departure: Final = self._make_departure(
            checked_grace(grace_s),
            preempt_file or (os.environ.get(PREEMPT_FILE_VARIABLE) if rank != 0 else None),
        )
        name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.doing: Final = Doing()
        is_worker = self.rank > 0 or not is_given
        self._seat: Final = self._take_seat() if is_worker else NOWHERE
        self._session: Final = Session(
            self.rank, name, layout, patience_s=self._patience_s, doing=self.doing,
            any_rank=not is_given, seat=self._seat,
        )  # fmt: skip
        self._wants: Final = transport if is_worker else "tcp"
        self._encoding = encoding or Encoding()
        self._owns_memory: Final = memory is None
        self.memory: Final = memory or SlabMemory(
            layout.nbytes, has_outbox=self._encoding.codec != "f32"
        )
        self.residual: Slab = residual_for(self._encoding, layout.nbytes)
        self._say: Final = logged(say or say_on_stderr, __name__, logging.WARNING)
        self._outage: Final = Outage(self._say, address, self._patience_s)
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._control: Final = self._open_control()
        self._options: Final = SentOptions()
        self.deadline_s: float = math.inf  # on time.monotonic(); this worker's part ends then
        self._closed = self._is_leaving = False
        self._refused_s: float | None = None  # since when its host has refused connections
        self._has_pulled = False  # whether it has reached every shard
        self._generation = 0  # of the server that gave what this process has
        self._answered: Answered | None = None  # until a server has given newer parameters
        self._lost = 0  # steps without an answer that are not pushed again
        self._counted: Final = Counted()
        self._answers: Slab | None = None  # where the answers to the open step are written
        self._keep: Callable[[], Slab] | None = None  # gives what `keep` says
        self._repeats = False  # whether the open step is to be pushed again to another server
        self._samples = 0  # behind the newest step
        self._published = 0  # how often this process has made its values everybody's
        self._liveness: Liveness | None = None
        self._driver: DataLane | None = None
        try:
            self._join()
        except BaseException:
            self._part()
            self._context.destroy(linger=0)
            self._let_go_of_memory()
            self._seat.leave()
            raise

    def _join(self) -> None:
        """Joins the run; again where it is evicted before it has come to the end of that."""
        while True:
            try:
                self._join_once()
            except EvictedError:  # noqa: PERF203
                self._part()
            else:
                return

    def _join_once(self) -> None:
        beats = self._say_hello()
        self.chunks: tuple[Chunk, ...] = self.layout.cut(self.welcome.chunk_nbytes)
        self.steps: int = self.welcome.first_step - 1
        self._options.forget()
        self._is_step_open = False
        self._agree_on_codec()
        self._connect(beats)
        if not self._repeats:
            self.transport: Transport = self._choose_transport()
        if self.welcome.heals and self.rank:
            self._tell_what_is_remembered()

    def _tell_what_is_remembered(self) -> None:
        """Offers a server that was started again what this process was answered with."""
        if self._answered is not None:
            self._engine.tell(
                self._answered.offers(self.chunks, self.rank, self.incarnation),
                self._answered.values.data,
            )
            self._finish_round()
        counted = self._counted
        self._session.want_remember(
            self._lost, counted.epochs, counted.of_epoch, counted.of_lease, counted.newest_lease,
            self._patience_s,
        )  # fmt: skip
        while self._session.is_wanting:
            self.check()
            self._control.carry(self._session)
        self._control.require_answer(self._session)

    def _say_hello(self) -> Beats:
        codec = self._encoding.codec
        first_s = ANSWER_S if self._wait_s is None else self._wait_s
        self._session.want_hello(
            [codec] if codec == "f32" else [codec, "f32"],
            first_s if self._session.welcome is None else self._patience_s,
        )
        while self._session.is_wanting:
            self._control.carry(self._session)
        self._control.require_answer(self._session)
        welcome, beats = self._session.welcome, self._session.beats
        assert welcome is not None
        assert beats is not None
        self.welcome: Welcome = welcome
        self.rank = welcome.worker
        return beats

    def _connect(self, beats: Beats) -> None:
        welcome = self.welcome
        self._liveness = self._open_liveness(beats)
        self._liveness.start()
        self._engine = make_engine(
            self.layout, welcome, self._encoding, self.memory.whole, self.memory.map, self.residual
        )
        self._driver = self._open_data(self._engine)

    # What carries the messages, which may be something else than sockets.

    def _make_departure(
        self, grace_s: float, preempt_file: str | os.PathLike[str] | None
    ) -> Departure:
        return Departure(grace_s, preempt_file)

    def _take_seat(self) -> Seat:
        return take_seat(self.address)

    def _open_control(self) -> ControlChannel:
        return ControlChannel(self.address, self._context, self._outage.note, self.key)

    def _open_liveness(self, beats: Beats) -> Liveness:
        return Liveness(
            self.address, beats, self._outage, self._say, self.doing, self.key, self.departure
        )

    def _open_data(self, engine: StepEngine) -> DataLane:
        host, _ = split_address(self.address)
        liveness, has_pulled = self.liveness, self._has_pulled

        def patience_s() -> float:
            """A port that has never been open, while the server answers, is none."""
            is_closed = not has_pulled and not liveness.is_silent
            return min(RECONNECT_S, self._patience_s) if is_closed else self._patience_s

        return DataDriver(
            self._context, host, self.welcome, engine, self.chunks, self.check, patience_s,
            self._outage.note, lambda: liveness.outages, self.key,
        )  # fmt: skip

    def _choose_transport(self) -> Transport:
        if self._wants == "tcp":
            return Transport.tcp
        why_not = self._data.attach(self.memory, self.rank, self.incarnation)
        if why_not is None:
            return Transport.shm
        if self._wants == "shm":
            raise ArgumentError("transport", "shm", f"{why_not}; take auto or tcp")
        self._say(f"no shared memory with this server, so TCP: {why_not}")
        return Transport.tcp

    def _agree_on_codec(self) -> None:
        """Takes the codec that the server knows.

        Where that is the same as before, what error feedback holds back stays with this process
        when it says hello again.
        """
        agreed = self.welcome.codec
        if agreed != self._encoding.codec:
            self._say(f"the server does not know {self._encoding.codec}: {agreed} instead")
            self._encoding = Encoding(agreed)
            self.residual = residual_for(self._encoding, self.layout.nbytes)

    def _part(self) -> None:
        """Ends the connections of this incarnation, whose reports go out before that."""
        if self._driver is not None:
            self._driver.close()
        if self._liveness is not None:
            self._tell_the_last(self._liveness, time.monotonic() + STOP_S)

    def _tell_the_last(self, liveness: Liveness, until_s: float) -> None:
        """Ends the beats once the last reports have gone out, which count from the evicted too."""
        beats = self._session.beats
        assert beats is not None
        liveness.stop(until_s - time.monotonic(), self._is_server_gone)
        if not liveness.has_ended:
            return
        beats.stop()  # the thread may have heard of an eviction since
        while beats.has_news and beats.error is None and time.monotonic() < until_s:
            beats.begin(time.monotonic())
            beats.hurry(until_s)
            self._control.carry(beats)

    def _say_bye(self, reason: str, until_s: float) -> None:
        """Says bye, again and again until the server answers, or has gone."""
        while True:
            left_s = until_s - time.monotonic()
            self._session.want_bye(reason, min(BYE_AGAIN_S, max(BYE_S, left_s)), self.departure.why)
            self._control.carry(self._session)
            is_silent = self._session.silence is not None
            if not is_silent or time.monotonic() >= until_s or self._is_server_gone():
                return

    def _is_server_gone(self) -> bool:
        """Whether nobody has listened at the server's port for a while, though its host answers."""
        if not hosts.refuses(*host_and_port(self.address)):
            self._refused_s = None
            return False
        self._refused_s = self._refused_s or time.monotonic()
        return time.monotonic() - self._refused_s > GONE_S

    @property
    def liveness(self) -> Liveness:
        """The thread that sends beats and reports; a new one after `rejoin`."""
        assert self._liveness is not None
        return self._liveness

    @property
    def _data(self) -> DataLane:
        """The data connections to all shards; new ones after `rejoin`."""
        assert self._driver is not None
        return self._driver

    @property
    def slabs(self) -> list[Slab]:
        """The two slabs of this worker's memory, which a server on this host may share."""
        return self.memory.slabs

    @property
    def settings(self) -> dict[str, Any]:
        """What the run goes by, as the server told when this process said hello last."""
        return self.welcome.settings

    @property
    def incarnation(self) -> int:
        """The number of this process's newest hello, which is in all of its messages."""
        return self.welcome.incarnation

    @property
    def epoch(self) -> int:
        """The epochs that every worker has completed, as the newest beat told; 0 before any."""
        beaten = self.liveness.beaten
        return beaten.epoch if beaten is not None else 0

    # Taking part.

    def begin(
        self, parameters: Slab, on_wait: Callable[[Beaten | None], None] | None = None
    ) -> None:
        """Waits until every worker is here, then fills `parameters` with the common values.

        Args:
            parameters: a slab of this layout with this process's first values: they become
                everybody's if the server asks this worker for them.
            on_wait: called about twice a second while waiting, with the newest answer to a beat. By
                default, `say` shows for whom the run waits.

        Raises:
            NotReadyError: others are missing after the `wait_s` seconds that this client was given.
            LeashError: whatever ends this process's part, such as a server that stops.
        """
        tell = on_wait or Waiting.of_library(self._say).workers
        limit_s = math.inf if self._wait_s is None else self._wait_s
        until_s = time.monotonic() + limit_s

        def on_wait_for_others(beaten: Beaten | None) -> None:
            tell(beaten)
            if (whom := awaited(beaten)) and time.monotonic() > until_s:
                raise NotReadyError(
                    f"waited {limit_s:g} s (wait_s) for {whom}: start it, or wait for longer"
                )

        while True:
            try:
                self._begin(parameters, on_wait_for_others)
            except EvictedError:  # noqa: PERF203
                self._part()
                self._control.renew()
                self._join()
            else:
                return

    def _begin(self, parameters: Slab, on_wait: Callable[[Beaten | None], None]) -> None:
        self._await_values(parameters, on_wait)
        self.pull(parameters)

    def _await_values(self, own: Slab | None, on_wait: Callable[[Beaten | None], None]) -> None:
        """Waits until training goes on and the model has values, which may be this process's."""
        ready = self.wait_until(lambda b: b.started and (b.initialize or b.initialized), on_wait)
        if ready.first_step:
            self.steps = ready.first_step - 1
            self.welcome = replace(
                self.welcome, epochs=ready.epochs, samples=ready.samples, share=ready.share
            )
        if ready.initialize and not ready.initialized:
            if own is None:
                raise NotReadyError("the server has lost all values; call begin() with yours")
            self._init(own)

    def wait_until(
        self, is_reached: Callable[[Beaten], bool], on_wait: Callable[[Beaten | None], None]
    ) -> Beaten:
        """Waits for an answer to a beat that says what the caller waits for.

        Args:
            is_reached: says of an answer whether it is the one.
            on_wait: called about twice a second with the newest answer, or None before the first.

        Returns:
            The answer that satisfies `is_reached`.

        Raises:
            LeashError: what ended this process's part in the run.
        """
        self.require_own_process()
        self.doing.begin(WAITING)

        def wait_or_go(beaten: Beaten | None) -> None:
            on_wait(beaten)
            if self.departure.look():
                self.departure.go()

        beaten = self.liveness.wait_until(is_reached, wait_or_go)
        self.doing.begin(BETWEEN)
        return beaten

    def pause(self, seconds: float) -> None:
        """Waits for the answer to a beat, but not for longer than this.

        If this worker was told to go, `ToldToLeave` ends the wait.

        Args:
            seconds: at most so many.
        """
        self.require_own_process()
        self.liveness.pause(seconds)
        if self.departure.look():
            self.departure.go()

    def pull(self, parameters: Slab) -> int:
        """Fills a slab with the values of all chunks as they are now.

        Args:
            parameters: a slab of this layout, overwritten chunk by chunk.

        Returns:
            The largest version of a chunk: how many updates it has seen, by anyone.

        Raises:
            NotReadyError: the chunks have no values yet; `begin` waits for them.
            LeashError: whatever else ends this process's part.
        """
        self.require_own_process()
        self._engine.pull(
            [encode(Pull(self.rank, self.incarnation, c.index, c.dtype)) for c in self.chunks],
            parameters.data,
        )
        self._finish_round()
        self._has_pulled = True
        self._has_now()
        return self._engine.version

    def set_options(self, table: OptionsTable) -> None:
        """Has the server apply the steps that begin from now on by these options.

        They go before the next step, and whenever this process says hello again. Without a call
        the server's own options apply.

        Args:
            table: options for groups of slots.

        Raises:
            UsageError: the table is larger than a message of this server.
        """
        self._options.want(table, self.welcome.chunk_nbytes)

    def publish(self, values: Slab) -> None:
        """Makes this worker's values everybody's, in place of those that the server has.

        The server takes them at once, chunk by chunk, under every policy: pushes that come later
        are applied to them, and the newest values win. The other workers get them with the answers
        to their next pushes. `pull` afterwards, so that the server knows what this worker has.

        Args:
            values: a slab of this layout. Unchanged by others until this returns.

        Raises:
            NonfiniteError: a value is a NaN or an infinity; chunks before it were taken.
            EvictedError: the server went on without this worker; `rejoin` helps.
            LeashError: whatever else ends this worker's part.
        """
        self.check()
        self._published += 1
        number = self._published
        self._engine.tell(
            [encode(Publish(self.rank, self.incarnation, number, c.index, c.dtype))
             for c in self.chunks],
            values.data, number,
        )  # fmt: skip
        self._finish_round()

    def push_pull(
        self,
        gradients: Slab,
        parameters: Slab,
        samples: SupportsIndex,
        *,
        absent: Collection[int] = (),
        held: Slab | None = None,
    ) -> StepInfo:
        """Pushes a step's gradients and waits for the parameters that the policy grants.

        Args:
            gradients: a slab of this layout; chunks of buffers hold values instead. Unchanged
                by others until this returns.
            parameters: a slab of this layout, overwritten chunk by chunk; may be `gradients`.
            samples: how many there are behind this gradient, its weight in the mean of bsp.
            absent: as in `begin_step`.
            held: as in `begin_step`.

        Returns:
            What happened to the step.

        Raises:
            NonfiniteError: a NaN or infinity in the gradient, named by step and slot.
            EvictedError: the server went on without this worker; `rejoin` helps.
            LeashError: whatever else ends this worker's part.
        """
        self.begin_step(gradients, parameters, samples, absent=absent, held=held)
        return self.finish_step()

    def begin_step(
        self,
        gradients: Slab,
        parameters: Slab,
        samples: SupportsIndex,
        *,
        absent: Collection[int] = (),
        held: Slab | None = None,
    ) -> None:
        """Opens a step whose chunks `advance` sends as they become ready.

        A step that is still open is forgotten.

        Args:
            gradients: a slab of this layout, as in `push_pull`; complete from the end on.
            parameters: a slab of this layout, overwritten chunk by chunk; may be `gradients`.
            samples: how many there are behind this gradient, its weight in the mean of bsp.
            absent: numbers of the layout's slots that have no gradient, which the server then
                leaves alone; their places in `gradients` hold zeros. The collection may still grow
                by slots of chunks that are not ready.
            held: a slab with the parameters that this worker has. Chunks without any gradient that
                nobody has changed are taken from it, and do not travel.

        Raises:
            ArgumentError: `samples` is no whole number from 0.
            UsageError: this process is an observer.
            LeashError: what has ended this worker's part.
        """
        count = checked_samples(samples)
        self._check_between_steps()
        if not self.rank:
            raise UsageError(f"rank 0 is an observer, which pushes nothing; {RANK_MEND}")
        due = self._options.due(self.rank, self.incarnation)
        table = self._options.number
        self._engine.begin(
            self.steps + 1, count, gradients.data, parameters.data, absent,
            None if held is None else held.data, table,
        )  # fmt: skip
        self.steps += 1
        self._is_step_open = True
        self._answers, self._samples = parameters, count
        for request, payload in due:
            self._engine.set_options(request.number, encode(request), payload)

    def advance(self, first_ready: int) -> None:
        """Sends what may go, in the fixed order; takes the answers that have come. Never waits.

        Args:
            first_ready: the gradients of this chunk and all behind it are complete.

        Raises:
            LeashError: what `push_pull` raises.
        """
        self.require_own_process()
        self._ready(first_ready)
        if self._repeats:
            return
        try:
            self._data.advance()
        except RestartedError:
            if not self._may_repeat:
                raise
            self._repeats = True  # `finish_step` sends what is missing

    def finish_step(self) -> StepInfo:
        """Sends the rest of the open step, and waits for all answers.

        Returns:
            What happened to the step.

        Raises:
            LeashError: what `push_pull` raises.
        """
        self.require_own_process()
        self._ready(0)
        self.doing.begin(WAITING)
        wait_s = self._finish_pushes()
        self.doing.begin(BETWEEN)
        self._options.is_known = True
        self._is_step_open = False
        self._counted.step(self._samples)
        end = self._engine.finish()
        return StepInfo(self.steps, end.version, end.lag, end.staleness, wait_s)

    def keep(self, kept: Callable[[], Slab]) -> None:
        """Says what this worker was answered with, for a server that is started again.

        Its values are those of a checkpoint. Of each chunk it takes the newest that any worker
        has. Without a call this worker has nothing to offer.

        Args:
            kept: gives a slab with the parameters that this worker was answered with before the
                step that it is in; or where the answers to it are written, if that is another
                place than the gradients'. It stays as it is until `pull` has returned.
        """
        self._keep = kept

    def rejoin(self) -> None:
        """Says hello again after an eviction; pull before the next push.

        A worker that has trained keeps trying for as long as it is patient. If the server was
        started again, and its values are older, this offers it what `keep` says.

        Raises:
            LeashError: what joining raises: nobody answers, or the server refuses.
        """
        self.require_own_process()
        self._repeats = False
        self._lost = max(self._lost, int(self._is_step_open))
        self._join_again()

    def _join_again(self) -> None:
        """Offers what this process remembers, if it is asked, and waits until training goes on."""
        self._remember_all()
        kept = None if self._answered is None else self._answered.values
        tell = Waiting.of_library(self._say).workers
        while True:
            self.doing.begin(WAITING)
            self._part()
            self._control.renew()  # an outage may have taken its connection
            self._join()
            try:
                self._await_values(kept, tell)
            except EvictedError:
                continue
            return

    # A server that was started again, under bsp: no step is lost, since all are in the same one.

    @property
    def _may_repeat(self) -> bool:
        """Whether steps without an answer may be pushed again to a server that was started again.

        Elsewhere what another worker has offered may contain them.
        """
        return self._keep is not None and self.settings.get("policy") == BSP.name

    def _check_between_steps(self) -> None:
        """As `check`; but where no step is lost by it, this process first joins again."""
        try:
            self.check()
        except RestartedError:
            if not self._may_repeat:
                raise
            self._go_on_elsewhere(self.steps + 1, is_open=False)

    def _finish_pushes(self) -> float:
        """Sends the rest of the open step, and waits for all answers; returns how long it took."""
        while True:
            if self._repeats:
                self._go_on_elsewhere(self.steps, is_open=True)
            try:
                return self._data.finish()
            except RestartedError:
                if not self._may_repeat:
                    raise
                self._repeats = True

    def _go_on_elsewhere(self, step: int, *, is_open: bool) -> None:
        """Joins a server that was started again, and goes on there as if it were the same one.

        Args:
            step: the one that is open, or the next one.
            is_open: whether it is; then what has no answer is pushed again.

        Raises:
            RestartedError: the others have gone on without it.
        """
        engine, firsts, encoding = self._engine, self.welcome.first_chunks, self._encoding
        self._lost = min(1, engine.settle_written())
        self._repeats = True  # whose samples count once the new server has answered it
        try:
            self._join_again()
        finally:
            self._repeats = False
        # The open step may be in all values already, since another worker had all of its answers.
        # Whoever comes later has answers that the others have gone on without.
        is_next = self.steps + 1 == step or (is_open and self.steps == step)
        fits = self.welcome.heals and is_next
        is_same = self.welcome.first_chunks == firsts and self._encoding is encoding
        if not fits or not is_same or not self._may_repeat:
            raise RestartedError(TOO_LATE.format(step))
        due = self._options.due(self.rank, self.incarnation)
        memory = self.memory
        engine.rejoin(
            self.incarnation, self._options.number,
            attach_writer(
                self.rank, self.incarnation, os.getpid(), memory.fd or 0, memory.nbytes,
                memory.nonce,
            ),
        )  # fmt: skip
        if is_open:
            self.steps, self._is_step_open = step, True
            for request, payload in due:
                engine.set_options(request.number, encode(request), payload)
        self._data.close()
        self._engine, self._driver = engine, self._open_data(engine)
        self._has_now()

    def _has_now(self) -> None:
        """Notes that this process has what this server has."""
        self._generation, self._answered, self._lost = self.welcome.generation, None, 0
        self._counted.lease(0)

    def _remember_all(self) -> None:
        """Notes what this process would offer, unless it has not been given newer values since."""
        if self._keep is not None and self._answered is None and self._has_pulled:
            self._answered = self._remembered(self._keep())

    def _remembered(self, kept: Slab) -> Answered:
        """What this process was answered with, the answers to the open step included."""
        self._engine.settle_written()
        newest, values = self._engine.newest, kept
        answered = [self._is_step_open and step == self.steps for _, step in newest]
        if any(answered):
            assert self._answers is not None
            values = merged(kept, self._answers, self.chunks, answered)
        return Answered(values, newest, self._generation)

    def lease(
        self, samples: int, epochs: int, batch_size: int, samples_per_s: float, ahead: int = 0
    ) -> Leased:
        """Asks for samples to train on.

        By asking, a worker says that it has done its earlier leases, less what it draws ahead.

        A call that was broken off before its answer came is made again by the next one, and brings
        the lease that it would have brought.

        Args:
            samples: how many the training set has.
            epochs: how many this worker wants to train for.
            batch_size: that this worker was started with.
            samples_per_s: its speed while it computes; 0 before it is known.
            ahead: how many samples of earlier leases it pushes before those that it asks for.

        Returns:
            A range of an epoch's permutation, or what to do instead.

        Raises:
            PlanMismatchError: the run has other data, another number of epochs, or fixed shares.
            EvictedError: the server went on without this worker; `rejoin` helps.
            LeashError: whatever else ends this worker's part.
        """
        self.doing.begin(WAITING)
        self._session.want_lease(samples, epochs, batch_size, samples_per_s, ahead)
        while self._session.is_wanting:
            self.check()  # the beats may have found that the server is lost
            self._control.carry(self._session)
        self._control.require_answer(self._session)
        assert self._session.leased is not None
        self._counted.lease(self._session.leased.number)
        self.doing.begin(BETWEEN)
        return self._session.leased

    def report(self, report: Report) -> None:
        """Hands a report to the thread of beats, which sends it soon. Never waits.

        Args:
            report: replaces a training report that has not gone out yet.
        """
        self.require_own_process()
        if report.kind == "epoch":
            self._counted.epoch(report.epoch)
        self.liveness.tell(report)

    def state(self) -> dict[str, Any]:
        """Asks the server how the run stands.

        Returns:
            The map that ``leash status --json`` shows; ``docs/wire-format.md`` lists its keys.

        Raises:
            ServerUnreachableError: no answer in time.
        """
        self.require_own_process()
        return request_state(self._control)

    def close(self, reason: str = DONE) -> None:
        """Says bye, unless the server is gone, and ends all threads and sockets.

        Who is done, or whose time is over, tells its last reports and its bye for as long as it is
        patient: the run waits for them. A server that was started again meanwhile is first offered
        what `keep` says. Anybody else tries for a moment.

        A second call does nothing, nor does one in a process that was forked from this client's.

        Args:
            reason: "done", "timeout", "stopped" or "failed".
        """
        if self._closed or self._is_leaving or not self.is_own_process:
            return
        self._is_leaving = True
        if self.departure.has_gone and reason == DONE:
            reason = STOPPED
        try:
            self._take_leave(reason)
        finally:
            self._closed = True
            self._keep = self._answered = None  # whoever gave it has this client too
            self.departure.is_done()
            self._seat.leave()
            self._control.close()
            self._context.destroy(linger=0)
            self._let_go_of_memory()

    def _take_leave(self, reason: str) -> None:
        failure = self.liveness.failure
        goes_on = failure is None or isinstance(failure, EvictedError)
        is_patient = reason in AT_THE_END and goes_on
        if is_patient:
            self._remember_all()
        if self._driver is not None:
            self._driver.close()
        until_s = time.monotonic() + (self._patience_s if is_patient else STOP_S)
        self._tell_the_last(self.liveness, until_s)
        if not is_patient:
            until_s = time.monotonic()
        with suppress(LeashError):  # it needs no bye from who has no part in the run any more
            self._say_bye(reason, until_s)
            while isinstance(self._session.error, RestartedError) and time.monotonic() < until_s:
                self._go_back(until_s)
                self._say_bye(reason, until_s)

    def _go_back(self, until_s: float) -> None:
        """Joins a server that was started again before it had this worker's bye.

        It waits for all who took part, and may have older values than this worker.
        """

        def look(_: Beaten | None) -> None:
            if time.monotonic() >= until_s:
                raise NotReadyError("the server waits for others")

        self._control.renew()
        self._join()
        with suppress(EvictedError):  # it was started once more
            self._await_values(None if self._answered is None else self._answered.values, look)
        self._part()

    def _let_go_of_memory(self) -> None:
        if self._owns_memory:
            self.memory.close()

    def tell_to_leave(self, why: str) -> None:
        """Tells this worker to go: the next step that is done is its last.

        Args:
            why: who says so, in a word.
        """
        self.departure.tell(why)

    @property
    def told(self) -> str:
        """Who has told this worker to go, in a word; empty while nobody has."""
        self.departure.look()
        return self.departure.why

    def check(self) -> None:
        """Raises what has ended this process's part in the run, if anything has.

        That may be `ToldToLeave`, where this worker was told to go and its grace is over, or the
        server is silent.

        Raises:
            StoppingError: the server is about to end, or `deadline_s` has passed.
            UsageError: this process was forked from the one that joined, or has left with `close`.
            LeashError: what the thread of beats met, such as a server that no longer answers.
        """
        self.require_own_process()
        if self._closed:
            raise UsageError(CLOSED)
        self.liveness.check()
        if time.monotonic() > self.deadline_s:
            raise StoppingError(STOPPED_BY_TIMEOUT)
        departure = self.departure
        if departure.why and (departure.is_overdue or self.liveness.is_silent):
            departure.go()

    @property
    def is_own_process(self) -> bool:
        """Whether this process is the one that joined, and not one that was forked from it."""
        return os.getpid() == self._process

    def require_own_process(self) -> None:
        """Refuses a process that was forked from the one that joined.

        Raises:
            UsageError: this is one.
        """
        if not self.is_own_process:
            raise UsageError(FORKED.format(self._process, os.getpid()))

    # How it is done.

    def _ready(self, first_ready: int) -> None:
        """Lets the chunks go that have become ready, each to its shard."""
        assert self._is_step_open, "begin_step comes first"
        try:
            self._engine.ready(first_ready)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _init(self, parameters: Slab) -> None:
        self._engine.tell(
            [encode(Init(self.rank, self.incarnation, c.index, c.dtype)) for c in self.chunks],
            parameters.data,
        )
        self._finish_round()

    def _finish_round(self) -> None:
        """Waits for the answers to what is about all chunks, but is no step."""
        self.doing.begin(WAITING)
        self._data.finish()
        self.doing.begin(BETWEEN)
        self._engine.forget()
