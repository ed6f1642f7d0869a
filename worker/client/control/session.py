"""A process's part in a run, as two engines that know neither sockets, threads nor clocks.

::

    Session   hello ▸ welcome ──▸ lease ▸ leased ──▸ … ──▸ bye ▸ ok
                       └─▸ Beats   beat ▸ beaten, report ▸ ok, log ▸ ok, beat ▸ beaten, …

Each has a control connection of its own, so that beats go on while a step takes long. Every hello
that is welcomed brings other beats, since it brings another incarnation.
"""

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from leash.ps.errors import (
    EvictedError,
    HeaderError,
    LayoutMismatchError,
    LeashError,
    RestartedError,
    StoppingError,
    UnknownWorkerError,
)
from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import (
    TEXT_MAX,
    U63_MAX,
    Beat,
    Beaten,
    Bye,
    Hello,
    Lease,
    Leased,
    Message,
    Ok,
    Remember,
    Report,
    Welcome,
)
from leash.ps.wire.requester import AT_ONCE_S, NEVER_S, PATIENCE_S, ControlFrames, Requester
from leash.worker.client.control.doing import Doing
from leash.worker.client.control.log_queue import LogQueue
from leash.worker.client.control.seat import NOWHERE, Seat

START_BEAT_S: Final = 0.05  # between two beats before training starts, which is to be heard soon
OBSERVER_BEAT_S: Final = 0.1  # an observer wants to see the end of an epoch as it comes
ANSWER_S: Final = 30.0  # how long a process waits for the answer to its hello, if it is not told
LEASE_S: Final = 5.0  # a lease without an answer for so long is asked for once more
BYE_S: Final = 1.0  # who has not come to the end of its work says bye for no longer


def random_number() -> int:
    """Draws the number of a hello."""
    return 1 + secrets.randbelow(U63_MAX)


def as_member(error: LeashError) -> LeashError:
    """What an answer means to a process that the run's server has welcomed before.

    Args:
        error: the answer.
    """
    if isinstance(error, UnknownWorkerError):
        return RestartedError(f"the server was started again, and says: {error}")
    return error


class Beats(Requester):
    """The signs of life of one incarnation, its reports, and what the loop logs.

    They go on until `stop`, or until an error ends this process's part in the run: it is `error`.
    The reports of a process that was evicted still go out, once it is stopped: they count.

    REQUIRES: `tell`, `stop` and `begin` are called one at a time. Whoever carries a request that
    has begun may do so meanwhile.

    Attributes:
        beaten: the server's newest answer to a beat; None before the first.
        rows: what the loop has logged; those of the next incarnation go on with it.
    """

    def __init__(
        self, worker: int, incarnation: int, beat_s: float, patience_s: float = PATIENCE_S,
        doing: Doing | None = None, rows: LogQueue | None = None,
    ) -> None:  # fmt: skip
        """Has the first beat due at once.

        Args:
            worker: the rank; 0 for an observer.
            incarnation: from the answer to this process's hello.
            beat_s: seconds between two beats once training has started.
            patience_s: a server that is silent for longer is lost; may be infinite.
            doing: knows what this process's training does; None if nobody asks.
            rows: what the loop has logged; by default nothing yet.
        """
        super().__init__()
        self.rows: Final = rows or LogQueue(random_number)
        self._rows_end = 0  # the number after the last row that is on its way; 0 for none
        self.beaten: Beaten | None = None
        self._beat: Final = Beat(worker, incarnation)
        self._beat_s: Final = beat_s
        self._patience_s: Final = patience_s
        self._doing: Final = doing
        self._beat_at_s = AT_ONCE_S
        self._reports: Final[deque[Report]] = deque()
        self._telling: Report | None = None  # the one that is on its way
        self._reported = 0  # how many reports have been sent
        self._is_stopped = False

    def tell(self, report: Report) -> None:
        """Queues a report, which goes before the next beat; then a beat follows at once.

        Args:
            report: takes the place of a training report that has not gone out yet.
        """
        if self._reports and self._reports[-1].kind == report.kind == "training":
            self._reports.pop()
        self._reports.append(report)

    def tell_for(self, before: "Beats") -> None:
        """Takes over the reports that an earlier incarnation could not tell.

        Args:
            before: its beats, which have ended.
        """
        untold = [*before._reports] if before._telling is None else [
            before._telling, *before._reports
        ]  # fmt: skip
        incarnation = self._beat.incarnation
        self._reports.extend(replace(report, incarnation=incarnation) for report in untold)

    def stop(self) -> None:
        """Lets the reports that wait go out, and no beat any more."""
        self._is_stopped = True
        if isinstance(self.error, EvictedError):
            self.error = None  # the run went on, and what this process has done counts

    @property
    def is_over(self) -> bool:
        """Whether nothing will be sent any more."""
        has_ended = self._is_stopped and not self._has_to_tell and not self.is_busy
        return has_ended or self.error is not None

    @property
    def _has_to_tell(self) -> bool:
        """Whether reports wait, or rows, which are there until they are answered."""
        return bool(self._reports) or not self.rows.is_empty

    @property
    def has_news(self) -> bool:
        """Whether there are reports or rows that have no answer yet."""
        is_telling = self.is_busy and self._expected is Ok
        return self._has_to_tell or is_telling

    def begin(self, now_s: float) -> None:
        """Begins to send the oldest report, rows, or a beat: what is due, if nothing is on its way.

        Args:
            now_s: the time.
        """
        if self.is_busy or self.error is not None:
            return
        if self._reports:
            self._reported += 1
            self._telling = replace(self._reports.popleft(), number=self._reported)
            self._ask((encode(self._telling),), Ok, self._patience_s, now_s)
        elif now_s >= self.rows.due_s or (self._is_stopped and not self.rows.is_empty):
            log, payload, self._rows_end = self.rows.next_message(
                self._beat.worker, self._beat.incarnation, now_s
            )
            self._ask((encode(log), payload), Ok, self._patience_s, now_s)
        elif not self._is_stopped and now_s >= self._beat_at_s:
            self._ask(self._next_beat(), Beaten, self._patience_s, now_s)

    def _next_beat(self) -> ControlFrames:
        """Writes the next beat, with the stack of the thread that trains if it was asked for."""
        if self._doing is None:
            return (encode(self._beat),)
        phase, phase_s = self._doing.told()
        header = encode(replace(self._beat, phase=phase, phase_s=round(phase_s, 3)))
        wants_stack = self.beaten is not None and self.beaten.stack
        return (header, self._doing.stack()) if wants_stack else (header,)

    def _take(self, answer: Message, payload: bytes | None, now_s: float) -> None:
        if not isinstance(answer, Beaten) and self._rows_end:
            self.rows.taken(self._rows_end)
            self._rows_end = 0
            return
        if not isinstance(answer, Beaten):
            self._beat_at_s, self._telling = AT_ONCE_S, None
            return
        self.beaten = answer
        if answer.stopping:
            raise StoppingError(answer.stopping)
        due_s = self._beat_s if answer.initialized else START_BEAT_S
        self._beat_at_s = AT_ONCE_S if answer.stack else now_s + due_s

    def _fail(self, error: LeashError) -> None:
        super()._fail(as_member(error))

    def _is_wanted(self) -> bool:
        # What is to be told goes after the beat that is on its way.
        return not self._is_stopped or self._has_to_tell

    @property
    def _due_s(self) -> float:
        if self.is_over:
            return NEVER_S
        if self._reports or (self._is_stopped and self._has_to_tell):
            return AT_ONCE_S
        return min(self._beat_at_s, self.rows.due_s)


class Session(Requester):
    """What a process asks for itself: to take part, for samples, and to be let go.

    It asks for one thing at a time; a call takes the place of an earlier one. Its `error` says how
    the newest failed.

    Attributes:
        rank: the worker's number, from 1; 0 for an observer, and before the first welcome for a
            worker that takes any rank.
        any_rank: whether the server says which rank this worker has.
        welcome: the newest; None before the first.
        beats: of the newest welcome; None before the first.
        leased: the answer to the newest request for samples; None until it has come.
        is_wanting: whether what was asked for last has neither come nor failed.
    """

    def __init__(
        self, rank: int, name: str, layout: Layout, draw: Callable[[], int] = random_number,
        patience_s: float = PATIENCE_S, doing: Doing | None = None, *, any_rank: bool = False,
        seat: Seat = NOWHERE,
    ) -> None:  # fmt: skip
        """Asks for nothing yet.

        Args:
            rank: the worker's number, from 1; 0 for an observer, or for a worker that takes any.
            name: tells people which process this is.
            layout: of this process's model; the run has one layout.
            draw: draws the number of a hello.
            patience_s: as in `Beats`.
            doing: as in `Beats`.
            any_rank: the server says which rank this worker has.
            seat: where this process is, by which a machine that returns gets its rank back.
        """
        super().__init__()
        self._patience_s: Final = patience_s
        self._doing: Final = doing
        self.rank: int = rank
        self.any_rank: Final = any_rank
        self._seat: Final = seat
        self.welcome: Welcome | None = None
        self.beats: Beats | None = None
        self.leased: Leased | None = None
        self.is_wanting = False
        self._name: Final = name
        self._layout: Final = layout
        self._draw: Final = draw
        self._rows: Final = LogQueue(draw)
        self._leases = 0  # how many of this worker's requests were answered since its hello
        self._request: Message = Message()
        self._answer: type[Message] = Message
        self._limit_s = 0.0  # what is wanted is asked for no longer

    @property
    def incarnation(self) -> int:
        """The number of the newest hello that was welcomed, which is in all messages from then on.

        REQUIRES: one was.
        """
        assert self.welcome is not None
        return self.welcome.incarnation

    def want_hello(
        self, codecs: Sequence[str] = ("f32",), timeout_s: float = ANSWER_S, answer_codec: str = ""
    ) -> None:
        """Asks to take part, under an incarnation of its own.

        Args:
            codecs: in which this process would push gradients, the best first.
            timeout_s: how long to wait for an answer.
            answer_codec: in which it asks for parameters; empty where `codecs` tell it.
        """
        role = "worker" if self.rank or self.any_rank else "observer"
        hello = Hello(
            role, self.rank, self._name, list(codecs), self._draw(), self.any_rank,
            self._seat.place, self._seat.token, answer_codec,
        )  # fmt: skip
        self._want(hello, Welcome, timeout_s)

    def want_lease(
        self, samples: int, epochs: int, batch_size: int, samples_per_s: float, ahead: int = 0
    ) -> None:
        """Asks for samples to train on, and again while the server is silent.

        A request that has no answer yet, or was broken off, keeps its number, so that it brings the
        lease that it would have brought. Whether the server is lost, the beats find.

        Args:
            samples: how many the training set has.
            epochs: how many this worker wants to train for.
            batch_size: that this worker was started with.
            samples_per_s: its speed while it computes; 0 before it is known.
            ahead: how many samples of earlier leases it pushes before those that it asks for.
        """
        number = self._leases + 1
        self.leased = None
        lease = Lease(
            self.rank, self.incarnation, number, samples, epochs, batch_size, samples_per_s, ahead
        )
        self._want(lease, Leased, LEASE_S)

    def want_remember(
        self, lost: int, epochs: int, samples: int, answered: int,
        lease: tuple[int, int], step: int, timeout_s: float, *, begun: bool,
    ) -> None:  # fmt: skip
        """Tells a server that was started again what `Remember` says.

        Args:
            lost: how many steps of this worker had no answer, and are not pushed again.
            epochs: how many of its share it has completed.
            samples: of the next one, how many were answered.
            answered: how many since its newest lease.
            lease: the number of that, and the incarnation that got it.
            step: the step that it pushes next if all go on in lockstep; 0 for none.
            timeout_s: how long to wait for an answer.
            begun: whether it has begun to push that.
        """
        remember = Remember(
            self.rank, self.incarnation, lost, epochs, samples, answered, *lease, step, begun
        )
        self._want(remember, Ok, timeout_s)

    def want_bye(self, reason: str, timeout_s: float = BYE_S, why: str = "") -> None:
        """Says that this process leaves.

        Args:
            reason: "done", "timeout", "stopped" or "failed".
            timeout_s: how long to wait for an answer.
            why: who told it to leave; empty if nobody did.
        """
        self._want(Bye(self.rank, self.incarnation, reason, why[:TEXT_MAX]), Ok, timeout_s)

    def begin(self, now_s: float) -> None:
        """Begins the request for what is wanted, unless it is on its way.

        Args:
            now_s: the time.
        """
        if self.is_wanting and not self.is_busy:
            header = encode(self._request)
            has_payload = isinstance(self._request, Hello)
            frames = (header, self._layout.pack()) if has_payload else (header,)
            self._ask(frames, self._answer, self._limit_s, now_s)

    def _want(self, request: Message, answer: type[Message], timeout_s: float) -> None:
        self.abandon()
        self.is_wanting = True
        self._request, self._answer, self._limit_s = request, answer, timeout_s

    def _fits(self, answer: Message) -> bool:
        return not isinstance(answer, Leased) or answer.number == self._leases + 1

    def _take(self, answer: Message, payload: bytes | None, now_s: float) -> None:
        if isinstance(answer, Welcome):
            self._join(answer, payload)
        elif isinstance(answer, Leased):
            self._leases += 1
            self.leased = answer
        self.is_wanting = False

    def _join(self, welcome: Welcome, payload: bytes | None) -> None:
        if not welcome.beat_s > 0:  # nor is it a NaN
            raise HeaderError(f"welcome.beat_s: expected seconds above 0, got {welcome.beat_s:g}")
        served = Layout.unpack(payload or b"")
        if difference := served.first_difference(self._layout):
            raise LayoutMismatchError(difference)
        self.rank = welcome.worker
        beat_s = welcome.beat_s if self.rank else min(OBSERVER_BEAT_S, welcome.beat_s)
        self.welcome, self.leased, self._leases = welcome, None, 0
        before = self.beats
        self.beats = Beats(
            self.rank, welcome.incarnation, beat_s, self._patience_s, self._doing, self._rows
        )
        if before is not None:
            self.beats.tell_for(before)

    def _fail(self, error: LeashError) -> None:
        super()._fail(error if isinstance(self._request, Hello) else as_member(error))
        if isinstance(self._request, Hello) and isinstance(error, EvictedError):
            # An answer that was lost for so long that the server gave this process up is no loss.
            self._request = replace(self._request, number=self._draw())
            return
        self.is_wanting = isinstance(self._request, Lease) and self.silence is not None

    @property
    def _due_s(self) -> float:
        return AT_ONCE_S if self.is_wanting else NEVER_S
