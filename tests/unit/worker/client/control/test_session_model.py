"""A session and its beats against a real coordinator, over connections that lose messages.

What leaves an engine is on its way until a rule lets it arrive. A connection that breaks loses all
of it, but a request may have passed: then it arrives later, even after newer ones, and nobody hears
the answer.
"""

from collections import Counter, deque
from dataclasses import replace
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leash.ps.errors import (
    EvictedError,
    FencedError,
    LeashError,
    ServerUnreachableError,
    StoppingError,
)
from leash.ps.wire.frames import CONTROL, decode, encode
from leash.ps.wire.messages import Beat, Hello, Lease, Leased, Message, Report, Welcome
from leash.ps.wire.requester import ControlFrames, Requester
from leash.worker.client.control.session import Beats, Session
from support.sockless import LAYOUT, SocklessServer

RANK = 1
EVICT_S = 10.0
SAMPLES, EPOCHS, BATCH = 1000, 50, 10
KINDS = ("plan", "training", "epoch")
BEAT_OF_OTHER = Beat(2, 0)


class Server:
    """A coordinator behind the bytes of its socket, with a record of what it was asked."""

    def __init__(self) -> None:
        self.inner = SocklessServer("asp", workers=2, evict_s=EVICT_S, rejoin_s=1e9)
        self.counted: list[Report] = []
        self.welcomed: list[tuple[int, int]] = []  # numbers of the rank's hellos, and incarnations
        self.leased: dict[tuple[int, int], set[Leased]] = {}  # by incarnation and number
        count = self.inner.metrics.report

        def keep(report: Report) -> None:
            if report.worker == RANK:
                self.counted.append(report)
            count(report)

        self.inner.metrics.report = keep  # type: ignore[method-assign]

    def answer(self, frames: ControlFrames) -> ControlFrames:
        request = decode(frames[0], CONTROL)
        payload = frames[1] if len(frames) > 1 else None
        answer, back = self.inner.coordinator.answer(request, payload)
        self._note(request, answer)
        return (encode(answer),) if back is None else (encode(answer), back)

    def _note(self, request: Message, answer: Message) -> None:
        if isinstance(request, Hello) and isinstance(answer, Welcome):
            self.welcomed.append((request.number, answer.incarnation))
        if isinstance(request, Lease) and isinstance(answer, Leased):
            key = request.incarnation, request.number
            self.leased.setdefault(key, set()).add(answer)


class Line:
    """An engine's connection to the server."""

    def __init__(self, engine: Requester, server: Server) -> None:
        self.engine = engine
        self.server = server
        self.up: deque[ControlFrames] = deque()
        self.down: deque[ControlFrames] = deque()
        self.strays: list[ControlFrames] = []

    def turn(self, now_s: float) -> None:
        """What a driver does whenever something has happened."""
        if (frames := self.engine.next(now_s)) is not None:
            self.up.append(frames)
        if self.engine.renews:
            self.cut(passes=True)

    def cut(self, *, passes: bool) -> None:
        """The connection breaks; what was under way to the server may still arrive there."""
        self.strays += self.up if passes else ()
        self.up.clear()
        self.down.clear()
        self.engine.lost()

    def arrive(self) -> None:
        """The oldest request reaches the server, which answers at once."""
        if self.up:
            self.down.append(self.server.answer(self.up.popleft()))

    def come_back(self, now_s: float) -> None:
        """The oldest answer reaches the engine."""
        if self.down:
            self.engine.receive(self.down.popleft(), now_s)


class SessionModel(RuleBasedStateMachine):
    """One worker's session; another worker is there so that the run goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.other = self.server.inner.hello(2).incarnation
        numbers = iter(range(1, 10**6))
        self.session = Session(RANK, "process 1", LAYOUT, lambda: next(numbers))
        self.asking = Line(self.session, self.server)
        self.beating: Line | None = None
        self.earlier: list[Line] = []  # of beats whose incarnation is no more
        self.told: dict[int, list[Report]] = {}  # by incarnation; less those that were replaced
        self.epochs = 0
        self.left = False
        self.ask_to_join()

    # Time, and what the drivers do.

    @property
    def now_s(self) -> float:
        return self.server.inner.clock.now_s

    @property
    def beats(self) -> Beats | None:
        return self.session.beats

    @property
    def lines(self) -> list[Line]:
        return [self.asking] if self.beating is None else [self.asking, self.beating]

    def settle(self) -> None:
        if self.beats is not None and (self.beating is None or self.beating.engine != self.beats):
            self.earlier += [self.beating] if self.beating is not None else []
            self.beating = Line(self.beats, self.server)
        for line in self.lines:
            line.turn(self.now_s)

    def pick(self, which: int) -> Line:
        return self.lines[which % len(self.lines)]

    def ask_to_join(self) -> None:
        if self.beats is not None:
            self.beats.stop()
        self.session.want_hello()
        self.settle()

    # What happens.

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.server.inner.clock.skip(seconds)
        self.server.inner.coordinator.tick()
        self.settle()

    @rule(which=st.integers(0, 1))
    def a_connection_stands(self, which: int) -> None:
        line = self.pick(which)
        if not line.engine.stands:
            line.engine.connected()
        self.settle()

    @rule(which=st.integers(0, 1), passes=st.booleans())
    def a_connection_breaks(self, which: int, passes: bool) -> None:
        self.pick(which).cut(passes=passes)
        self.settle()

    @rule(which=st.integers(0, 1))
    def a_request_arrives(self, which: int) -> None:
        self.pick(which).arrive()
        self.settle()

    @rule(which=st.integers(0, 1))
    def an_answer_arrives(self, which: int) -> None:
        self.pick(which).come_back(self.now_s)
        self.settle()

    @rule(which=st.integers(0, 1))
    def an_exchange_goes_well(self, which: int) -> None:
        """Most do."""
        line = self.pick(which)
        if not line.engine.stands:
            line.engine.connected()
        self.settle()
        line.arrive()
        line.come_back(self.now_s)
        self.settle()

    @rule(which=st.integers(0, 1), index=st.integers(0, 5))
    def an_old_copy_arrives(self, which: int, index: int) -> None:
        strays = self.pick(which).strays
        if strays:
            self.server.answer(strays.pop(index % len(strays)))

    @precondition(lambda self: self.beats is not None and not self.left)
    @rule(kind=st.sampled_from(KINDS))
    def the_worker_reports(self, kind: str) -> None:
        assert self.beats is not None
        self.epochs += 1
        incarnation = self.session.incarnation
        report = Report(RANK, incarnation, kind, self.epochs, 1, 1, 0.5, 0.0, 1.0, 1.0)
        self.beats.tell(report)
        self.told.setdefault(incarnation, []).append(report)
        self.settle()

    @precondition(lambda self: self.session.welcome is not None and not self.session.is_wanting)
    @rule()
    def the_worker_asks_for_samples(self) -> None:
        if not self.left:
            self.session.want_lease(SAMPLES, EPOCHS, BATCH, 100.0)
            self.settle()

    @precondition(lambda self: not self.left and not self.session.is_wanting)
    @rule()
    def the_worker_joins_again(self) -> None:
        self.ask_to_join()

    @precondition(lambda self: self.session.welcome is not None)
    @rule(reason=st.sampled_from(["stopped", "failed"]))
    def the_worker_leaves(self, reason: str) -> None:
        """It is the last thing that it does; another worker keeps the run open."""
        if not self.left:
            assert self.beats is not None
            self.left = True
            self.beats.stop()
            self.session.want_bye(reason)
            self.settle()

    @rule()
    def another_process_takes_the_rank(self) -> None:
        if not self.server.inner.coordinator.stopping:
            self.server.welcomed.append((0, self.server.inner.hello(RANK).incarnation))

    @rule()
    def the_other_worker_beats(self) -> None:
        self.server.inner.ask(replace(BEAT_OF_OTHER, incarnation=self.other))

    @precondition(lambda self: self.epochs > 5)
    @rule()
    def the_server_is_about_to_end(self) -> None:
        self.server.inner.coordinator.stopping = "SIGTERM"

    # What must hold.

    @invariant()
    def no_report_counts_twice_nor_before_an_earlier_one(self) -> None:
        # What one incarnation could not tell, the next one does.
        told = {report.epoch: report for reports in self.told.values() for report in reports}
        for reports in self.counted().values():
            epochs = [report.epoch for report in reports]
            assert epochs == sorted(set(epochs))
            assert [report.number for report in reports] == list(range(1, len(reports) + 1))
            for report in reports:
                own = told[report.epoch]
                assert replace(report, number=0, incarnation=own.incarnation) == own

    @invariant()
    def a_hello_that_is_repeated_brings_the_same_incarnation(self) -> None:
        for (before, earlier), (number, incarnation) in pairwise(self.server.welcomed):
            if number == before:
                assert incarnation == earlier or not number
            else:
                assert incarnation > earlier
        if self.session.welcome is not None:
            assert self.session.incarnation in {given for _, given in self.server.welcomed}

    @invariant()
    def a_lease_that_is_repeated_brings_the_same_samples(self) -> None:
        assert {len(found) for found in self.server.leased.values()} <= {1}
        leased = self.session.leased
        if leased is not None and leased.order == "train":
            granted = self.server.leased[self.session.incarnation, leased.number]
            assert granted == {leased}

    @invariant()
    def every_failure_has_a_name(self) -> None:
        for line in self.lines:
            error = line.engine.error
            assert error is None or isinstance(error, LeashError)
        if self.beats is not None and self.beats.error is not None:
            kinds = (EvictedError, FencedError, StoppingError, ServerUnreachableError)
            assert isinstance(self.beats.error, kinds)

    def counted(self) -> dict[int, list[Report]]:
        found: dict[int, list[Report]] = {}
        for report in self.server.counted:
            found.setdefault(report.incarnation, []).append(report)
        return found

    def teardown(self) -> None:
        """Once everything arrives: no report is lost of a process that was not given up."""
        if self.beats is None or self.beating is None or self.beats.error is not None:
            return
        self.beats.stop()
        for _ in range(2 * self.epochs + 4):
            self.an_exchange_goes_well(1)
        if self.beats.error is not None:
            return
        assert self.beats.is_over
        counted = self.counted().get(self.session.incarnation, [])
        told = self.told.get(self.session.incarnation, [])
        missing = Counter(r.epoch for r in told) - Counter(r.epoch for r in counted)
        for report in told:
            if report.epoch in missing:  # only a newer training report may have replaced it
                newer = told[told.index(report) + 1]
                assert report.kind == newer.kind == "training"


TestSession = SessionModel.TestCase
TestSession.settings = settings(max_examples=40, stateful_step_count=50)
