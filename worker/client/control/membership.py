"""A process's part in a run, as the control socket knows it: hello, beats, leases, bye.

::

    hello ─▸ beats, reports, leases ─▸ the last reports ─▸ bye ─▸ closed
      ▴                                      │
      └──────── evicted, or restarted ───────┘
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from leash._log import Say
from leash.ps.errors import StoppingError, TooManyError, UsageError
from leash.ps.wire import hosts
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.messages import STOPPED_BY_TIMEOUT, Beaten, Welcome
from leash.ps.wire.sockets import host_and_port
from leash.ps.words import BETWEEN, WAITING
from leash.worker.client.control.departure import Departure
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.liveness import STOP_S, Liveness
from leash.worker.client.control.session import ANSWER_S, BYE_S, Beats, Session

CLOSED: Final = "closed: this worker has left the run; make a new one to take part again"
FORKED: Final = (
    "process {} joined the run, and this one, {}, was forked from it: no connection outlives a "
    "fork; use it there, or join from here under a rank of its own"
)
BYE_AGAIN_S: Final = 3.0  # meanwhile it looks so often whether the server is gone
RANK_AGAIN_S: Final = 1.0  # a worker that waits for a rank asks so often whether one is free
GONE_S: Final = 5.0  # a server whose host refuses connections for so long has ended


class Membership:
    """Takes a process into a run and out of it, and knows whether it still has a part in it.

    It belongs to the thread that trains.

    Attributes:
        session: decides what this process asks for.
        control: carries that.
        departure: knows whether this worker was told to go.
        doing: what the thread that trains does now; the server hears of it with each beat.
        patience_s: for how long this process keeps trying when nobody answers; may be infinite.
        rank: the worker's number, from 1; 0 for an observer.
        welcome: what the server told when this process said hello last.
        deadline_s: on ``time.monotonic()``; from then on `check` ends this worker's part.
    """

    def __init__(
        self, session: Session, control: ControlChannel, departure: Departure, doing: Doing,
        open_liveness: Callable[[Beats, Departure, Doing], Liveness], *,
        wait_s: float | None, patience_s: float, say: Say,
    ) -> None:  # fmt: skip
        """Takes no part yet; `say_hello` does.

        Args:
            session: decides what this process asks for.
            control: carries that.
            departure: knows whether this worker was told to go.
            doing: what the thread that trains does now.
            open_liveness: makes what beats for one incarnation.
            wait_s: how long the first hello waits for an answer; None for as long as ever.
            patience_s: how long later ones do, and how long it waits for a rank where all are
                taken and it takes any.
            say: shows a line.
        """
        self.session: Final = session
        self.control: Final = control
        self.departure: Final = departure
        self.doing: Final = doing
        self.patience_s: Final = patience_s
        self.rank: int = session.rank
        self.deadline_s: float = math.inf
        self._open_liveness: Final = open_liveness
        self._say: Final = say
        self._first_s: Final = ANSWER_S if wait_s is None else wait_s
        self._rank_s: Final = patience_s if wait_s is None else wait_s
        self._process: Final = os.getpid()
        self._liveness: Liveness | None = None
        self._refused_s: float | None = None  # since when its host has refused connections
        self._is_closed = False

    @property
    def liveness(self) -> Liveness:
        """What sends beats and reports; another one after each hello."""
        assert self._liveness is not None
        return self._liveness

    @property
    def incarnation(self) -> int:
        """The number of this process's newest hello, which is in all of its messages."""
        return self.welcome.incarnation

    # Whether it takes part.

    @property
    def is_own_process(self) -> bool:
        """Whether this process is the one that joined, and not one that was forked from it."""
        return os.getpid() == self._process

    def require_own_process(self) -> None:
        """Refuses a process that was forked from the one that joined.

        Raises:
            UsageError: this is one.
        """
        if os.getpid() != self._process:
            raise UsageError(FORKED.format(self._process, os.getpid()))

    def check(self) -> None:
        """Raises what has ended this process's part in the run, if anything has.

        Raises:
            ToldToLeave: this worker was told to go and its grace is over, or the server is silent.
            StoppingError: the server is about to end, or `deadline_s` has passed.
            UsageError: this process was forked from the one that joined, or has left with `close`.
            LeashError: what the thread of beats met, such as a server that no longer answers.
        """
        self.require_own_process()
        if self._is_closed:
            raise UsageError(CLOSED)
        assert self._liveness is not None
        self._liveness.check()
        if time.monotonic() > self.deadline_s:
            raise StoppingError(STOPPED_BY_TIMEOUT)
        departure = self.departure
        if departure.why and (departure.is_overdue or self._liveness.is_silent):
            departure.go()

    # Hello, and what follows.

    def say_hello(self, codec: str, answer_codec: str) -> None:
        """Asks to take part, as another incarnation, and begins to beat.

        Where all ranks are taken, and it takes any, it asks until one is free.

        Args:
            codec: in which this process would push gradients.
            answer_codec: in which it asks for parameters; empty where `codec` tells it.

        Raises:
            EvictedError: the run went on without this process before the answer came.
            ToldToLeave: this worker was told to go while it waited for a rank.
            LeashError: nobody answers, or the server refuses.
        """
        session = self.session
        codecs = [codec] if codec == "f32" else [codec, "f32"]
        until_s, told = time.monotonic() + self._rank_s, ""
        while True:
            session.want_hello(
                codecs, self._first_s if session.welcome is None else self.patience_s, answer_codec
            )
            while session.is_wanting:
                self.control.carry(session)
            lacks_rank = isinstance(session.error, TooManyError) and session.any_rank
            if not lacks_rank or time.monotonic() >= until_s:
                break
            if told != str(session.error):
                told = str(session.error)
                self._say(f"{told}; this worker waits for that")
            if self.departure.look():
                self.departure.go()
            time.sleep(RANK_AGAIN_S)
        self.control.require_answer(session)
        assert session.welcome is not None
        assert session.beats is not None
        self.welcome: Welcome = session.welcome
        self.rank = session.welcome.worker
        self._liveness = self._open_liveness(session.beats, self.departure, self.doing)
        self._liveness.start()

    def complete_welcome(self, beaten: Beaten) -> None:
        """Puts into `welcome` what a server that was started again did not know at the hello.

        Args:
            beaten: the answer to a beat that tells it.
        """
        self.welcome = replace(
            self.welcome, epochs=beaten.epochs, samples=beaten.samples, share=beaten.share
        )

    def await_answer(self) -> None:
        """Waits for the answer to what the session asks for, for as long as this takes part.

        Raises:
            LeashError: what has ended this process's part, or the answer is a refusal.
        """
        while self.session.is_wanting:
            self.check()  # the beats may have found that the server is lost
            self.control.carry(self.session)
        self.control.require_answer(self.session)

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
            ToldToLeave: this worker was told to go.
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

    # The end of an incarnation, and of the part.

    def part(self) -> None:
        """Ends the beats of this incarnation, whose reports go out before that."""
        if self._liveness is not None:
            self.tell_the_last(time.monotonic() + STOP_S)

    def tell_the_last(self, until_s: float) -> None:
        """Ends the beats once the last reports have gone out, which count from the evicted too.

        Args:
            until_s: on ``time.monotonic()``; it tries for no longer.
        """
        beats = self.session.beats
        assert beats is not None
        self.liveness.stop(until_s - time.monotonic(), self._is_server_gone)
        if not self.liveness.has_ended:
            return
        beats.stop()  # the thread may have heard of an eviction since
        while beats.has_news and beats.error is None and time.monotonic() < until_s:
            beats.begin(time.monotonic())
            beats.hurry(until_s)
            self.control.carry(beats)

    def say_bye(self, reason: str, until_s: float) -> None:
        """Says bye, again and again until the server answers, or has gone.

        Args:
            reason: "done", "timeout", "stopped" or "failed".
            until_s: on ``time.monotonic()``; it tries for no longer.
        """
        session = self.session
        while True:
            left_s = until_s - time.monotonic()
            session.want_bye(reason, min(BYE_AGAIN_S, max(BYE_S, left_s)), self.departure.why)
            self.control.carry(session)
            is_silent = session.silence is not None
            if not is_silent or time.monotonic() >= until_s or self._is_server_gone():
                return

    def close(self) -> None:
        """Ends the control connection; from then on `check` says that this worker has left."""
        self._is_closed = True
        self.departure.is_done()
        self.control.close()

    def _is_server_gone(self) -> bool:
        """Whether nobody has listened at the server's port for a while, though its host answers."""
        if not hosts.refuses(*host_and_port(self.control.address)):
            self._refused_s = None
            return False
        self._refused_s = self._refused_s or time.monotonic()
        return time.monotonic() - self._refused_s > GONE_S
