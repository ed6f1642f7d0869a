"""A process's part in a run, message by message, under a time that passes when a test says so."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import (
    ERROR_BY_CODE,
    EvictedError,
    FencedError,
    FrameCountError,
    HeaderError,
    LayoutError,
    LayoutMismatchError,
    LeashError,
    PlanMismatchError,
    RestartedError,
    ServerUnreachableError,
    StoppingError,
)
from leash.ps.trackers.rows import ROWS_MAX, unpack_rows
from leash.ps.wire.frames import CONTROL, decode, encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import (
    TRAIN,
    Beat,
    Beaten,
    Bye,
    Error,
    Hello,
    Lease,
    Leased,
    Log,
    Message,
    Ok,
    Report,
    State,
    Welcome,
)
from leash.ps.wire.requester import PATIENCE_S, Requester, Silence
from leash.ps.words import SMALLER_RATE
from leash.worker.client.control.log_queue import LOG_S, WAITING_MAX
from leash.worker.client.control.session import Beats, Session

LAYOUT = Layout([Slot("w", "f32", (4,))])
OTHER_LAYOUT = Layout([Slot("w", "f32", (5,))])
BEAT_S = 2.0
WELCOME = Welcome(
    1, 7, 1, chunk_nbytes=65536, window=8, data_ports=[5001], beat_s=BEAT_S, evict_s=10.0,
    settings={},
)  # fmt: skip
WAITING = Beaten(False, [2], False, False, 0, False, "")
BEATEN = Beaten(True, [], False, True, 0, False, "")
LEASED = Leased(1, 1, TRAIN, 1, 0, 10, 10, 1)
OK = Ok(1, 0, 0, True)
NAN = math.nan


class Line:
    """One engine's connection, and the time. It shows what the engine sends as a server sees it."""

    def __init__(self, engine: Requester, *, connected: bool = True) -> None:
        self.engine = engine
        self.now_s = 100.0
        if connected:
            engine.connected()

    def next(self) -> Message | None:
        """What the engine sends now; checks that it sends it once."""
        frames = self.engine.next(self.now_s)
        assert self.engine.next(self.now_s) is None
        self.payload = frames[1] if frames is not None and len(frames) > 1 else None
        return None if frames is None else decode(frames[0], CONTROL)

    def skip(self, seconds: float) -> Message | None:
        self.now_s += seconds
        return self.next()

    def answer(self, message: Message, *payload: bytes) -> Message | None:
        """The server answers; gives what the engine sends then."""
        self.engine.receive((encode(message), *payload), self.now_s)
        return self.next()

    def reconnect(self) -> Message | None:
        """The connection breaks, or is given up, and another stands; gives what is sent over it."""
        self.engine.lost()
        assert self.next() is None
        self.engine.connected()
        return self.next()

    def times_of(self, kind: type[Message], for_s: float) -> list[float]:
        """When this kind of request is sent to a server that is silent for so long, from now on.

        The first has been sent. Whenever the engine says so, the connection is made anew.
        """
        began_s, times = self.now_s, [0.0]
        while self.engine.wake_s <= began_s + for_s:
            sent = self.skip(self.engine.wake_s - self.now_s)
            if sent is None and self.engine.renews:
                sent = self.reconnect()
            if isinstance(sent, kind):
                times.append(self.now_s - began_s)
            elif sent is None and not self.engine.is_busy:
                break
        return times


def make_session(rank: int = 1) -> Session:
    numbers = itertools.count(1)
    return Session(rank, f"process {rank}", LAYOUT, lambda: next(numbers))


def joined(rank: int = 1, **changes: Any) -> Line:
    """A session that was welcomed."""
    line = Line(make_session(rank))
    session_of(line).want_hello()
    assert isinstance(line.next(), Hello)
    assert line.answer(replace(WELCOME, worker=rank, **changes), LAYOUT.pack()) is None
    return line


def session_of(line: Line) -> Session:
    assert isinstance(line.engine, Session)
    return line.engine


def beats_of(line: Line) -> Beats:
    assert isinstance(line.engine, Beats)
    return line.engine


def beating(beat_s: float = BEAT_S) -> Line:
    return Line(Beats(1, 7, beat_s))


def make_report(kind: str = "epoch", epoch: int = 1) -> Report:
    return Report(1, 7, kind, epoch, 1, 1, 0.5, 0.0, 1.0, 1.0)


# Every verb.


def wanting_hello() -> Line:
    line = Line(make_session())
    session_of(line).want_hello()
    return line


def wanting_lease() -> Line:
    line = joined()
    session_of(line).want_lease(60, 3, 10, 100.0, 5)
    return line


def wanting_bye() -> Line:
    line = joined()
    session_of(line).want_bye("done")
    return line


def telling() -> Line:
    line = beating()
    beats_of(line).tell(make_report())
    return line


@dataclass(frozen=True)
class Case:
    """One verb: an engine that wants it, its first request, the answer, and how long it waits."""

    wants: Callable[[], Line]
    request: Message
    answer: Message
    times: tuple[float, ...]  # when it is sent to a silent server
    payload: bytes | None = None  # of both

    @property
    def payloads(self) -> list[bytes]:
        return [] if self.payload is None else [self.payload]


TO_60_S = tuple(2.0 * i for i in range(30))
CASES = {
    "hello": Case(
        wanting_hello, Hello("worker", 1, "process 1", ["f32"], 1), WELCOME,
        tuple(2.0 * i for i in range(15)), LAYOUT.pack(),
    ),
    "lease": Case(
        wanting_lease, Lease(1, 7, 1, 60, 3, 10, 100.0, 5), LEASED,
        tuple(5.0 * i + j for i in range(12) for j in (0.0, 2.0, 4.0)),
    ),
    "bye": Case(wanting_bye, Bye(1, 7, "done"), OK, (0.0,)),
    "beat": Case(beating, Beat(1, 7), BEATEN, TO_60_S),
    "report": Case(telling, replace(make_report(), number=1), OK, TO_60_S),
}  # fmt: skip
every_verb = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_verb
def test_a_request_is_sent_once_and_ends_with_its_answer(case: Case) -> None:
    line = case.wants()
    assert line.engine.wake_s == -math.inf
    assert line.next() == case.request
    assert line.payload == case.payload
    assert line.skip(1.9 if case.request.verb != "bye" else 0.9) is None
    line.answer(case.answer, *case.payloads)
    assert line.engine.error is None
    if isinstance(line.engine, Session):
        assert not line.engine.is_wanting
        assert line.engine.wake_s == math.inf


@every_verb
def test_nothing_is_sent_before_a_connection_stands(case: Case) -> None:
    line = case.wants()
    line.engine.lost()
    assert line.next() is None
    line.engine.connected()
    assert line.next() == case.request


@every_verb
def test_what_a_driver_could_not_send_is_sent_later(case: Case) -> None:
    line = case.wants()
    assert line.next() == case.request
    line.engine.put_back()
    assert line.next() == case.request


@every_verb
def test_a_request_whose_connection_breaks_goes_over_the_next_one_as_it_was(case: Case) -> None:
    line = case.wants()
    sent = line.engine.next(line.now_s)
    for _ in range(3):
        line.engine.lost()
        line.now_s += 0.1
        assert line.engine.next(line.now_s) is None
        line.engine.connected()
        assert line.engine.next(line.now_s) == sent
    line.answer(case.answer, *case.payloads)
    assert line.engine.error is None


@every_verb
def test_a_silent_server_is_asked_every_two_seconds_over_new_connections(case: Case) -> None:
    line = case.wants()
    assert line.next() == case.request
    assert line.times_of(type(case.request), 60.0 - 1e-6) == pytest.approx(case.times)


@every_verb
def test_a_connection_that_is_not_made_is_left_for_another_every_two_seconds(case: Case) -> None:
    line = case.wants()
    line.engine.lost()
    assert line.next() is None
    assert not line.engine.renews
    if case.request.verb != "bye":  # which waits for one second
        line.skip(2.0)
        assert line.engine.renews
        assert line.reconnect() == case.request


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize(
    ("verb", "waited_s"),
    [("hello", 30.0), ("bye", 1.0), ("beat", PATIENCE_S), ("report", PATIENCE_S)],
)
def test_a_server_that_never_answers_ends_the_request_when_nobody_waits_any_more(
    verb: str, waited_s: float, connected: bool
) -> None:
    line = CASES[verb].wants()
    line.next()
    line.times_of(Message, waited_s - 1e-6)
    if not connected:
        line.engine.lost()
    line.engine.put_back()
    assert line.engine.error is None
    line.skip(waited_s)
    assert isinstance(line.engine.error, ServerUnreachableError)
    assert line.engine.silence == Silence(waited_s, connected)
    assert line.engine.wake_s == math.inf
    assert line.engine.renews  # the answer may still come


@every_verb
def test_an_answer_that_comes_twice_counts_once(case: Case) -> None:
    line = case.wants()
    line.next()
    frames = (encode(case.answer), *case.payloads)
    line.engine.receive(frames, line.now_s)
    after_the_first = vars(line.engine).copy()
    line.engine.receive(frames, line.now_s)
    assert vars(line.engine) == after_the_first
    assert line.engine.error is None


@every_verb
def test_what_comes_over_a_connection_before_the_request_went_there_is_ignored(case: Case) -> None:
    line = case.wants()
    line.next()
    late = (encode(Error("fenced", "of before", 1, 0, 0, 0)),)
    line.engine.lost()
    line.engine.receive(late, line.now_s)
    line.engine.connected()
    line.engine.receive(late, line.now_s)
    assert line.engine.error is None
    assert line.next() == case.request
    line.engine.connected()  # a driver that did not notice the end of the one before
    line.engine.receive(late, line.now_s)
    assert line.next() == case.request
    line.answer(case.answer, *case.payloads)
    assert line.engine.error is None


@pytest.mark.parametrize("code", [*ERROR_BY_CODE, "a code of later versions"])
@every_verb
def test_an_error_ends_the_request_as_what_it_stands_for(case: Case, code: str) -> None:
    line = case.wants()
    line.next()
    sent = line.answer(Error(code, "why", 1, 0, 0, 0))
    error = line.engine.error
    if code == "evicted" and case.request.verb == "hello":
        assert isinstance(sent, Hello)  # under another number
        return
    assert isinstance(error, LeashError)
    if code == "unknown_worker" and case.request.verb != "hello":  # it knew this process before
        assert isinstance(error, RestartedError)
        assert str(error) == "the server was started again, and says: why"
        return
    assert getattr(error, "code", None) == (code if code in ERROR_BY_CODE else "protocol")
    assert str(error) == (f"why; {SMALLER_RATE}" if code == "nonfinite" else "why")
    assert line.engine.silence is None
    assert sent is None
    assert line.engine.wake_s == math.inf


@every_verb
def test_an_answer_of_another_kind_or_with_another_payload_is_a_named_error(case: Case) -> None:
    wrong: list[tuple[tuple[bytes, ...], type[LeashError]]] = [
        ((encode(State()), b"\x80"), HeaderError),
        ((b"",), HeaderError),
        ((b"\xc1",), HeaderError),
        ((encode(case.answer), b"", b""), FrameCountError),
    ]
    if case.payload is None:
        wrong.append(((encode(case.answer), b"x"), FrameCountError))
    for frames, kind in wrong:
        line = case.wants()
        line.next()
        line.engine.receive(frames, line.now_s)
        assert type(line.engine.error) is kind
        assert not line.engine.is_busy


ANY_ANSWER = st.one_of(
    st.binary(max_size=64),
    st.builds(
        Welcome, st.integers(0, 3), st.integers(0, 9), st.integers(0, 9),
        chunk_nbytes=st.integers(0, 65536), window=st.integers(0, 4),
        data_ports=st.lists(st.integers(0, 9), max_size=3),
        beat_s=st.floats(allow_infinity=False), evict_s=st.floats(allow_infinity=False),
        settings=st.just({}), first_chunks=st.lists(st.integers(0, 9), max_size=3),
    ).map(encode),
    st.builds(
        Beaten, st.booleans(), st.just([]), st.booleans(), st.booleans(), st.integers(0, 9),
        st.booleans(), st.sampled_from(["", "timeout", "why"]),
    ).map(encode),
    st.builds(
        Leased, st.integers(0, 3), st.integers(0, 3),
        st.sampled_from(["train", "rest", "return", "over", "?"]), *[st.integers(0, 9)] * 5,
    ).map(encode),
    st.builds(Ok, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.booleans())
    .map(encode),
    st.builds(
        Error, st.sampled_from([*ERROR_BY_CODE, "?"]), st.text(max_size=8), *[st.just(0)] * 4
    ).map(encode),
)  # fmt: skip
ANY_PAYLOAD = st.one_of(
    st.sampled_from([[], [LAYOUT.pack()], [OTHER_LAYOUT.pack()], [b"", b""]]),
    st.lists(st.binary(max_size=32), min_size=1, max_size=1),
)


@given(
    verb=st.sampled_from(sorted(CASES)),
    told=st.lists(
        st.tuples(ANY_ANSWER, ANY_PAYLOAD, st.sampled_from([0.0, 0.3, 2.0, 61.0])), max_size=12
    ),
)
def test_whatever_a_server_sends_ends_in_a_named_error_or_goes_on(
    verb: str, told: list[tuple[bytes, list[bytes], float]]
) -> None:
    line = CASES[verb].wants()
    for header, payloads, seconds in told:
        line.next()
        line.engine.receive((header, *payloads), line.now_s)
        if line.skip(seconds) is None and line.engine.renews:
            line.reconnect()
        assert line.engine.error is None or isinstance(line.engine.error, LeashError)
        assert not math.isnan(line.engine.wake_s)
        if isinstance(line.engine, Session) and (beats := line.engine.beats) is not None:
            assert beats.next(line.now_s) is None
            assert line.engine.incarnation >= 0


def test_what_is_asked_for_takes_the_place_of_what_has_no_answer() -> None:
    line = wanting_lease()
    assert isinstance(line.next(), Lease)
    session_of(line).want_bye("stopped")
    assert line.next() is None
    assert line.engine.renews  # or the lease would be taken for the answer to the bye
    assert line.reconnect() == Bye(1, 7, "stopped")


# Hello.


def test_the_answer_to_a_hello_tells_who_this_process_is() -> None:
    session = session_of(joined())
    assert session.welcome == WELCOME
    assert session.incarnation == 7
    assert session.beats is not None
    assert Line(session.beats).next() == Beat(1, 7)


def test_a_hello_offers_the_codecs_that_it_is_given_and_waits_as_long_as_it_is_told() -> None:
    line = Line(make_session())
    session_of(line).want_hello(["int8", "f32"], 3.0)
    hello = line.next()
    assert isinstance(hello, Hello)
    assert hello.codecs == ["int8", "f32"]
    assert line.times_of(Hello, 10.0) == [0.0, 2.0]
    assert line.engine.silence == Silence(3.0, connected=True)


def test_a_hello_that_the_server_has_given_up_meanwhile_is_said_anew_and_as_patiently() -> None:
    line = wanting_hello()
    first = line.next()
    line.skip(2.0)
    assert line.reconnect() == first
    line.now_s += 27.0
    again = line.answer(Error("evicted", "why", 1, 0, 0, 0))
    assert again == replace(first, number=2)
    assert len(line.times_of(Hello, 30.0 - 1e-6)) == 15
    line.engine.put_back()
    line.reconnect()
    line.answer(WELCOME, LAYOUT.pack())
    assert line.engine.error is None
    assert session_of(line).incarnation == 7


def test_two_sessions_draw_different_numbers_above_zero() -> None:
    numbers = set()
    for _ in range(2):
        line = Line(Session(1, "", LAYOUT))
        session_of(line).want_hello()
        hello = line.next()
        assert isinstance(hello, Hello)
        numbers.add(hello.number)
    assert len(numbers) == 2
    assert min(numbers) > 0


@pytest.mark.parametrize(
    ("welcome", "payload", "kind", "text"),
    [
        (WELCOME, [OTHER_LAYOUT.pack()], LayoutMismatchError, "slot 0: expected parameter w f32 5"),
        (WELCOME, [], LayoutError, "layout"),
        (WELCOME, [b"\x91\x01"], LayoutError, "got 1"),
        (replace(WELCOME, beat_s=NAN), [LAYOUT.pack()], HeaderError, "welcome.beat_s: .* got nan"),
        (replace(WELCOME, beat_s=0.0), [LAYOUT.pack()], HeaderError, "above 0, got 0"),
    ],
)
def test_a_welcome_to_another_run_is_refused(
    welcome: Welcome, payload: list[bytes], kind: type[LeashError], text: str
) -> None:
    line = wanting_hello()
    line.next()
    line.answer(welcome, *payload)
    assert not session_of(line).is_wanting
    with pytest.raises(kind, match=text):
        raise line.engine.error or AssertionError
    assert session_of(line).beats is None


def test_an_observer_says_so_and_beats_more_often() -> None:
    line = Line(make_session(0))
    session_of(line).want_hello()
    hello = line.next()
    assert isinstance(hello, Hello)
    assert (hello.role, hello.worker) == ("observer", 0)
    line.answer(replace(WELCOME, worker=0), LAYOUT.pack())
    beats = session_of(line).beats
    assert beats is not None
    watching = Line(beats)
    watching.next()
    watching.answer(BEATEN)
    assert watching.engine.wake_s - watching.now_s == pytest.approx(0.1)


def test_who_joins_again_has_another_incarnation_and_begins_to_count_anew() -> None:
    line = joined()
    session = session_of(line)
    before = session.beats
    session.want_lease(60, 3, 10, 0.0)
    line.next()
    line.answer(LEASED)
    session.want_hello()
    again = line.next()
    assert isinstance(again, Hello)
    assert again.number == 2
    line.answer(replace(WELCOME, incarnation=8), LAYOUT.pack())
    assert session.beats is not before
    assert session.leased is None
    assert session.beats is not None
    beats = Line(session.beats)
    session.beats.tell(make_report())
    report = beats.next()
    assert isinstance(report, Report)
    assert report.number == 1
    assert beats.answer(OK) == Beat(1, 8)
    session.want_lease(60, 3, 10, 0.0)
    lease = line.next()
    assert isinstance(lease, Lease)
    assert (lease.incarnation, lease.number) == (8, 1)


# Leases.


def test_leases_are_numbered_by_their_answers() -> None:
    line = joined()
    for number in (1, 2, 3):
        session_of(line).want_lease(60, 3, 10, 0.0)
        assert session_of(line).leased is None
        lease = line.next()
        assert isinstance(lease, Lease)
        assert lease.number == number
        answer = replace(LEASED, number=number, first=10 * number)
        line.answer(answer)
        assert session_of(line).leased == answer


def test_a_lease_that_is_broken_off_is_asked_for_under_its_number_by_the_next_call() -> None:
    line = wanting_lease()
    line.next()
    line.engine.abandon()
    assert line.engine.renews
    session_of(line).want_lease(60, 3, 10, 0.0)
    lease = line.reconnect()
    assert isinstance(lease, Lease)
    assert lease.number == 1


def test_a_late_answer_to_an_older_lease_is_not_taken_for_this_one() -> None:
    line = wanting_lease()
    line.next()
    line.answer(LEASED)
    session_of(line).want_lease(60, 3, 10, 0.0)
    line.next()
    line.answer(LEASED)
    assert session_of(line).is_wanting
    assert session_of(line).leased is None
    second = replace(LEASED, number=2, first=10)
    line.answer(second)
    assert session_of(line).leased == second


def test_a_lease_that_is_refused_can_be_asked_for_again() -> None:
    line = wanting_lease()
    line.next()
    line.answer(Error("plan_mismatch", "other data", 1, 0, 0, 0))
    assert isinstance(line.engine.error, PlanMismatchError)
    session_of(line).want_lease(60, 3, 10, 0.0)
    lease = line.next()
    assert isinstance(lease, Lease)
    assert lease.number == 1
    assert line.engine.error is None


# Beats.


def test_beats_are_frequent_until_there_are_values_and_rarer_then() -> None:
    line = beating()
    assert line.next() == Beat(1, 7)
    for early in (WAITING, replace(BEATEN, initialized=False)):
        assert line.answer(early) is None
        assert line.engine.wake_s == pytest.approx(line.now_s + 0.05)
        assert line.skip(0.049) is None
        assert line.skip(0.002) == Beat(1, 7)
    assert line.answer(BEATEN) is None
    assert line.engine.wake_s == pytest.approx(line.now_s + BEAT_S)
    assert line.skip(BEAT_S - 0.001) is None
    assert line.skip(0.002) == Beat(1, 7)
    assert beats_of(line).beaten == BEATEN


@pytest.mark.parametrize(("code", "kind"), [("evicted", EvictedError), ("fenced", FencedError)])
def test_who_is_evicted_or_fenced_beats_no_more(code: str, kind: type[LeashError]) -> None:
    line = beating()
    line.next()
    line.answer(Error(code, "why", 1, 0, 0, 0))
    assert type(line.engine.error) is kind
    assert beats_of(line).is_over
    beats_of(line).tell(make_report())
    assert line.skip(1000.0) is None
    assert line.engine.wake_s == math.inf


def test_what_the_server_says_of_its_end_ends_this_part() -> None:
    line = beating()
    line.next()
    ending = replace(BEATEN, stopping="SIGTERM")
    line.answer(ending)
    assert isinstance(line.engine.error, StoppingError)
    assert str(line.engine.error) == "SIGTERM"
    assert beats_of(line).beaten == ending
    assert beats_of(line).is_over


def test_a_report_goes_at_once_and_a_beat_right_behind_it() -> None:
    line = beating()
    line.next()
    line.answer(BEATEN)
    beats_of(line).tell(make_report())
    assert line.engine.wake_s == -math.inf
    assert line.next() == replace(make_report(), number=1)
    assert line.answer(OK) == Beat(1, 7)


def test_reports_wait_for_one_another_and_for_a_beat_in_flight() -> None:
    line = beating()
    assert line.next() == Beat(1, 7)
    for epoch in (1, 2, 3):
        beats_of(line).tell(make_report(epoch=epoch))
    assert line.next() is None
    sent = line.answer(BEATEN)
    for epoch in (1, 2, 3):
        assert sent == replace(make_report(epoch=epoch), number=epoch)
        sent = line.answer(OK)
    assert sent == Beat(1, 7)


def test_a_newer_training_report_replaces_one_that_has_not_gone_out() -> None:
    line = beating()
    line.next()
    told = [("plan", 9), ("training", 1), ("training", 2), ("epoch", 1), ("training", 3),
            ("training", 4)]  # fmt: skip
    for kind, epoch in told:
        beats_of(line).tell(make_report(kind, epoch))
    sent = line.answer(BEATEN)
    for number, (kind, epoch) in enumerate([told[0], told[2], told[3], told[5]], 1):
        assert sent == replace(make_report(kind, epoch), number=number)
        sent = line.answer(OK)


def test_a_training_report_that_is_on_its_way_is_not_replaced() -> None:
    line = beating()
    beats_of(line).tell(make_report("training", 1))
    assert line.next() == replace(make_report("training", 1), number=1)
    beats_of(line).tell(make_report("training", 2))
    assert line.reconnect() == replace(make_report("training", 1), number=1)
    assert line.answer(OK) == replace(make_report("training", 2), number=2)


def test_who_is_stopped_sends_what_was_told_and_beats_no_more() -> None:
    line = beating()
    line.next()
    for epoch in (1, 2):
        beats_of(line).tell(make_report(epoch=epoch))
    beats_of(line).stop()
    assert not beats_of(line).is_over
    assert line.answer(BEATEN) == replace(make_report(epoch=1), number=1)
    assert line.answer(OK) == replace(make_report(epoch=2), number=2)
    assert not beats_of(line).is_over
    assert line.answer(OK) is None
    assert beats_of(line).is_over
    assert line.engine.error is None
    assert line.engine.wake_s == math.inf


def test_who_is_stopped_between_two_beats_is_over_at_once() -> None:
    line = beating()
    line.next()
    line.answer(BEATEN)
    beats_of(line).stop()
    assert beats_of(line).is_over
    assert line.skip(1000.0) is None


def test_who_is_stopped_asks_a_silent_server_no_more() -> None:
    line = telling()
    line.next()
    beats_of(line).stop()
    assert line.times_of(Report, 60.0) == [0.0]
    assert line.now_s == pytest.approx(102.0)
    assert beats_of(line).is_over


def test_who_is_stopped_behind_a_beat_that_nobody_answers_still_sends_what_was_told() -> None:
    line = beating()
    assert line.next() == Beat(1, 7)
    beats_of(line).tell(make_report())
    beats_of(line).stop()
    assert line.skip(2.0) is None
    assert line.engine.renews
    assert line.reconnect() == Beat(1, 7)
    assert line.answer(BEATEN) == replace(make_report(), number=1)
    assert line.answer(OK) is None
    assert beats_of(line).is_over
    assert line.engine.error is None


# Bye.


def test_a_bye_ends_after_a_second_whatever_the_server_says_or_does_not() -> None:
    line = wanting_bye()
    line.next()
    line.engine.lost()
    assert line.skip(0.9) is None
    assert session_of(line).is_wanting
    assert line.skip(0.2) is None
    assert not session_of(line).is_wanting
    assert line.engine.wake_s == math.inf


# What a loop logs.


def logging_line(rows: int = 1) -> Line:
    """Beats of which the first has been answered, with so many rows that the loop has logged."""
    line = beating()
    assert line.next() == Beat(1, 7)
    assert line.answer(BEATEN) is None
    for step in range(1, rows + 1):
        assert beats_of(line).rows.add(step, {"loss": 1 / step})
    return line


def steps_of(line: Line) -> list[int]:
    assert line.payload is not None
    return [step for step, _ in unpack_rows(line.payload)]


def test_a_row_goes_at_once_and_is_sent_again_until_it_is_answered() -> None:
    line = logging_line()
    assert line.engine.wake_s <= line.now_s
    sent = line.next()
    assert isinstance(sent, Log)
    assert (sent.worker, sent.incarnation, sent.first, sent.lost) == (1, 7, 1, 0)
    assert steps_of(line) == [1]
    assert line.reconnect() == sent
    assert line.answer(OK) is None
    assert beats_of(line).rows.is_empty
    assert not beats_of(line).has_news


def test_rows_go_together_and_no_more_often_than_twice_a_second() -> None:
    line = logging_line()
    line.next()
    line.answer(OK)
    for step in (2, 3):
        beats_of(line).rows.add(step, {"loss": 0.5})
    assert line.skip(LOG_S - 0.01) is None
    sent = line.skip(0.01)
    assert isinstance(sent, Log)
    assert sent.first == 2
    assert steps_of(line) == [2, 3]


def test_beats_go_on_while_much_is_logged() -> None:
    line = logging_line(WAITING_MAX)
    sent, beats = line.next(), 0
    for _ in range(40):
        if sent is not None:
            beats += isinstance(sent, Beat)
            sent = line.answer(BEATEN if isinstance(sent, Beat) else OK)
        else:
            sent = line.skip(line.engine.wake_s - line.now_s)
    assert beats >= 5


def test_more_rows_than_can_wait_are_left_out_and_counted() -> None:
    line = logging_line(WAITING_MAX)
    rows = beats_of(line).rows
    assert not rows.add(1, {"loss": 1.0})
    assert not rows.add(2, {"loss": 1.0})
    sent = line.next()
    assert isinstance(sent, Log)
    assert sent.lost == 2
    line.answer(OK)
    assert rows.add(3, {"loss": 1.0})
    sent = line.skip(LOG_S)
    assert isinstance(sent, Log)
    assert (sent.first, sent.lost) == (1 + ROWS_MAX, 0)


def test_who_stops_tells_all_that_was_logged_before() -> None:
    line = logging_line(2 * ROWS_MAX + 1)
    beats_of(line).stop()
    sent, told = line.next(), list[int]()
    while sent is not None:
        told += steps_of(line)
        sent = line.answer(OK)
    assert told == list(range(1, 2 * ROWS_MAX + 2))
    assert beats_of(line).is_over


def test_rows_without_an_answer_go_again_under_the_next_incarnation_with_their_numbers() -> None:
    line = joined()
    before = session_of(line).beats
    assert before is not None
    beats = Line(before)
    before.rows.add(1, {"loss": 1.0})
    sent = beats.next()
    assert isinstance(sent, Log)
    session_of(line).want_hello()
    line.next()
    line.answer(replace(WELCOME, incarnation=9), LAYOUT.pack())
    after = session_of(line).beats
    assert after is not None
    after.rows.add(2, {"loss": 0.5})
    again = Line(after)
    assert again.next() == Beat(1, 9)
    again.answer(BEATEN)
    assert again.skip(LOG_S) == replace(sent, incarnation=9)
    assert steps_of(again) == [1, 2]
    beats.answer(OK)  # which was on its way to the incarnation before
    again.answer(OK)
    assert after.rows.is_empty
