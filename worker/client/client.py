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
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal, SupportsIndex

from leash._log import logged, say_on_stderr
from leash.ps.errors import EvictedError, NotReadyError, UsageError
from leash.ps.processes import PREEMPT_FILE_VARIABLE
from leash.ps.trackers.rows import checked_metrics
from leash.ps.wire.control import request_state
from leash.ps.wire.keys import key_for
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import Beaten, Leased, Report, Welcome
from leash.ps.wire.options_table import OptionsTable
from leash.ps.words import BETWEEN, DONE, STOPPED, WAITING
from leash.worker.client.arguments import (
    check_connection,
    check_step,
    checked_grace,
    checked_patience,
    checked_rank,
    checked_samples,
)
from leash.worker.client.carriers import Carriers
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.liveness import Liveness
from leash.worker.client.control.membership import Membership
from leash.worker.client.control.seat import NOWHERE
from leash.worker.client.control.session import Session
from leash.worker.client.control.waiting import Waiting, awaited
from leash.worker.client.encoding import Encoding
from leash.worker.client.exchange import Exchange
from leash.worker.client.joining import Joining
from leash.worker.client.leaving import take_leave
from leash.worker.client.memory import Slab, SlabMemory
from leash.worker.client.pushes import Pushes, StepInfo
from leash.worker.client.remembered import Remembered
from leash.worker.client.step import Transport

LEFT_OUT: Final = (
    "log(): more comes than can be sent, about a hundred calls a second; some are left out, and "
    "the run's events say how many"
)


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
        departure: knows whether this worker was told to go.
        memory: the two slabs, and the outbox of a codec, that a server on this host may map.
        doing: what the thread that trains does now; the server hears of it with each beat.
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
        any_rank = isinstance(given, str)
        is_worker = given != 0
        check_connection(address, transport, wait_s)
        patience_s, grace_s = checked_patience(patience), checked_grace(grace_s)
        self.address: Final = address
        self.key: Final = key_for(key)
        self.layout: Final = layout
        self._wait_s: Final = wait_s
        self._say: Final = logged(say or say_on_stderr, __name__, logging.WARNING)
        carriers: Final = self._make_carriers(patience_s)
        self._carriers: Final = carriers
        if is_worker:
            preempt_file = preempt_file or os.environ.get(PREEMPT_FILE_VARIABLE)
        self.departure: Final = carriers.make_departure(grace_s, preempt_file or None)
        self.doing: Final = Doing()
        self._seat: Final = carriers.take_seat() if is_worker else NOWHERE
        encoding = encoding or Encoding()
        self._owns_memory: Final = memory is None
        self.memory: Final = memory or SlabMemory(layout.nbytes, has_outbox=encoding.codec != "f32")
        session = Session(
            0 if isinstance(given, str) else given, name or f"{socket.gethostname()}:{os.getpid()}",
            layout, patience_s=patience_s, doing=self.doing, any_rank=any_rank, seat=self._seat,
        )  # fmt: skip
        self._member: Final = Membership(
            session, carriers.open_control(), self.departure, self.doing,
            carriers.open_liveness, wait_s=wait_s, patience_s=patience_s, say=self._say,
        )  # fmt: skip
        self._exchange: Final = Exchange(
            self._member, carriers, layout, self.memory, encoding,
            transport if is_worker else "tcp", self._say,
        )  # fmt: skip
        self._remembered: Final = Remembered()
        self._joining: Final = Joining(self._member, self._exchange, self._remembered, self._say)
        self._pushes: Final = Pushes(self._member, self._exchange, self._joining, self._remembered)
        self._is_leaving = False
        self._has_said_left_out = False  # that rows which were logged are
        try:
            self._joining.join()
        except BaseException:
            self._joining.part()
            self._let_go()
            raise

    def _make_carriers(self, patience_s: float) -> Carriers:
        """Makes what carries the messages, which may be something else than sockets."""
        return Carriers(self.address, self.key, patience_s, self._say)

    # What this process is in the run, and what it has of it.

    @property
    def rank(self) -> int:
        """The worker's number, from 1; 0 for an observer.

        A worker that takes any rank may get another one when it joins again.
        """
        return self._member.rank

    @property
    def welcome(self) -> Welcome:
        """What the server told when this process said hello last."""
        return self._member.welcome

    @property
    def liveness(self) -> Liveness:
        """The thread that sends beats and reports; a new one after `rejoin`."""
        return self._member.liveness

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The layout's chunks, in the order of the slab."""
        return self._exchange.chunks

    @property
    def steps(self) -> int:
        """How many steps this worker has begun to push."""
        return self._exchange.steps

    @property
    def transport(self) -> Transport:
        """How gradients travel now."""
        return self._exchange.transport

    @property
    def residual(self) -> Slab:
        """What the codec has left over of each value so far, laid out like a slab.

        It is empty for a codec without error feedback.
        """
        return self._exchange.residual

    @property
    def deadline_s(self) -> float:
        """On ``time.monotonic()``; from then on `check` ends this worker's part."""
        return self._member.deadline_s

    @deadline_s.setter
    def deadline_s(self, deadline_s: float) -> None:
        self._member.deadline_s = deadline_s

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
                    f"waited {limit_s:g} s (wait_s) for {whom}: start whoever is missing, or wait "
                    "for longer"
                )

        while True:
            try:
                self._joining.await_values(parameters, on_wait_for_others)
                self.pull(parameters)
            except EvictedError:  # noqa: PERF203
                self._joining.join_again()
            else:
                return

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
        return self._member.wait_until(is_reached, on_wait)

    def pause(self, seconds: float) -> None:
        """Waits for the answer to a beat, but not for longer than this.

        If this worker was told to go, `ToldToLeave` ends the wait.

        Args:
            seconds: at most so many.
        """
        self._member.require_own_process()
        self._member.liveness.pause(seconds)
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
        self._member.require_own_process()
        self._exchange.pull(parameters)
        self._remembered.has_now(self.welcome.generation)
        return self._exchange.engine.version

    def set_options(self, table: OptionsTable) -> None:
        """Has the server apply the steps that begin from now on by these options.

        They go before the next step, and whenever this process says hello again. Without a call
        the server's own options apply.

        Args:
            table: options for groups of slots.

        Raises:
            UsageError: the table is larger than a message of this server.
        """
        self._exchange.options.want(table, self.welcome.chunk_nbytes)

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
        self._member.check()
        self._exchange.publish(values)

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
        self._pushes.begin(gradients, parameters, checked_samples(samples), absent, held)

    def advance(self, first_ready: int) -> None:
        """Sends what may go, in the fixed order; takes the answers that have come. Never waits.

        Args:
            first_ready: the gradients of this chunk and all behind it are complete.

        Raises:
            LeashError: what `push_pull` raises.
        """
        self._member.require_own_process()
        self._pushes.advance(first_ready)

    def finish_step(self) -> StepInfo:
        """Sends the rest of the open step, and waits for all answers.

        Returns:
            What happened to the step.

        Raises:
            LeashError: what `push_pull` raises.
        """
        self._member.require_own_process()
        return self._pushes.finish()

    def keep(self, kept: Callable[[], Slab]) -> None:
        """Says what this worker was answered with, for a server that is started again.

        Its values are those of a checkpoint. Of each chunk it takes the newest that any worker
        has. Without a call this worker has nothing to offer.

        Args:
            kept: gives a slab with the parameters that this worker was answered with before the
                step that it is in; or where the answers to it are written, if that is another
                place than the gradients'. It stays as it is until `pull` has returned.
        """
        self._remembered.keep(kept)

    def rejoin(self) -> None:
        """Says hello again after an eviction; pull before the next push.

        A worker that has trained keeps trying for as long as it is patient. If the server was
        started again, and its values are older, this offers it what `keep` says.

        Raises:
            LeashError: what joining raises: nobody answers, or the server refuses.
        """
        self._member.require_own_process()
        self._pushes.give_up()
        self._joining.rejoin()

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
        session = self._member.session
        session.want_lease(samples, epochs, batch_size, samples_per_s, ahead)
        self._member.await_answer()
        assert session.leased is not None
        self._remembered.counted.lease(session.leased.number, session.incarnation)
        self.doing.begin(BETWEEN)
        return session.leased

    def report(self, report: Report) -> None:
        """Hands a report to the thread of beats, which sends it soon. Never waits.

        Args:
            report: replaces a training report that has not gone out yet.
        """
        self._member.require_own_process()
        if report.kind == "epoch":
            self._remembered.counted.epoch(report.epoch)
        self.liveness.tell(report)

    def log(self, metrics: Mapping[str, Any], step: SupportsIndex | None = None) -> None:
        """Tells the run numbers of this worker's own: see `PSOptimizer.log`. Never waits.

        Args:
            metrics: name ▸ number.
            step: to which they belong; by default the newest that this worker has begun to push.

        Raises:
            ArgumentError: a name, a number or the step cannot be.
            UsageError: this process is an observer, or was forked from the one that joined.
        """
        self._member.require_own_process()
        if not self._member.rank:
            raise UsageError("log(): an observer only reads; it takes a worker to log")
        row = checked_metrics(metrics)
        at = self.steps if step is None else check_step(step)
        if not self.liveness.log(at, row) and not self._has_said_left_out:
            self._has_said_left_out = True
            self._say(LEFT_OUT)

    def state(self) -> dict[str, Any]:
        """Asks the server how the run stands.

        Returns:
            The map that ``leash status --json`` shows; ``docs/wire-format.md`` lists its keys.

        Raises:
            ServerUnreachableError: no answer in time.
        """
        self._member.require_own_process()
        return request_state(self._member.control)

    def close(self, reason: str = DONE) -> None:
        """Says bye, unless the server is gone, and ends all threads and sockets.

        Who is done, or whose time is over, tells its last reports and its bye for as long as it is
        patient: the run waits for them. A server that was started again meanwhile is first offered
        what `keep` says. Anybody else tries for a moment.

        A second call does nothing, nor does one in a process that was forked from this client's.

        Args:
            reason: "done", "timeout", "stopped" or "failed".
        """
        if self._is_leaving or not self.is_own_process:
            return
        self._is_leaving = True
        if self.departure.has_gone and reason == DONE:
            reason = STOPPED
        try:
            take_leave(reason, self._member, self._exchange, self._joining, self._remembered)
        finally:
            self._member.close()
            self._remembered.forget()  # whoever keeps the values has this client too
            self._let_go()

    def _let_go(self) -> None:
        self._seat.leave()
        self._carriers.close()
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
        self._member.check()

    @property
    def is_own_process(self) -> bool:
        """Whether this process is the one that joined, and not one that was forked from it."""
        return self._member.is_own_process

    def require_own_process(self) -> None:
        """Refuses a process that was forked from the one that joined.

        Raises:
            UsageError: this is one.
        """
        self._member.require_own_process()
