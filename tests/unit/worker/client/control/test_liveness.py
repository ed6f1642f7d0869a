"""The thread of beats and reports, against a server that is silent now and then."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from leash.ps.errors import ServerUnreachableError, StoppingError
from leash.ps.wire import requester
from leash.ps.wire.frames import encode
from leash.ps.wire.messages import Beat, Beaten, Message, Ok, Report
from leash.worker.client.control.liveness import Liveness
from leash.worker.client.control.session import Beats
from support.answering import Frames, server

BEATEN = Beaten(True, [], False, True, 0, False, "")
REPORT = Report(1, 7, "epoch", 1, 1, 1, 0.5, 0.0, 1.0, 1.0)
PATIENCE_S = 30.0


class Server:
    """Answers nothing as often as it is told to, and then everything."""

    def __init__(self, silences: int = 0, stopping: str = "") -> None:
        self.silences = silences
        self.stopping = stopping
        self.reports: list[Report] = []

    def answer(self, message: Message) -> list[Frames]:
        if isinstance(message, Report):
            self.reports.append(message)
        if self.silences:
            self.silences -= 1
            return []
        if isinstance(message, Beat):
            stopping = Beaten(True, [], False, True, 0, False, self.stopping)
            return [[encode(stopping)]]
        return [[encode(Ok(1, 0, 0, True))]]


@contextmanager
def beating(
    asked: Server, *reports: Report, beat_s: float = 0.01, patience_s: float = 60.0
) -> Iterator[Liveness]:
    """Gives a thread that sends these reports before its first beat."""
    with server(asked.answer) as address:
        thread = Liveness(address, Beats(1, 7, beat_s, patience_s))
        for report in reports:
            thread.tell(report)
        thread.start()
        try:
            yield thread
        finally:
            thread.stop()
            thread._thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requester, "RETRY_S", 0.1)


def test_a_server_that_is_silent_for_a_while_is_asked_again_until_it_answers() -> None:
    asked = Server(silences=5)
    with beating(asked) as thread:
        assert thread.wait_until(lambda beaten: beaten.initialized, lambda _: None) == BEATEN
        thread.check()


def test_a_server_that_stays_silent_is_lost_after_as_long_as_a_worker_is_patient() -> None:
    with (
        beating(Server(silences=10**9), patience_s=0.5) as thread,
        pytest.raises(ServerUnreachableError, match=r"waited 0\.5 s"),
    ):
        thread.wait_until(lambda _: False, lambda _: None)


def test_a_report_keeps_its_number_when_it_is_sent_again_and_the_next_has_the_next() -> None:
    asked = Server(silences=3)
    with beating(asked, REPORT, REPORT) as thread:
        thread.wait_until(lambda beaten: beaten.initialized, lambda _: None)
    numbers = [report.number for report in asked.reports]
    assert numbers == sorted(numbers)
    assert numbers.count(1) > 3
    assert set(numbers) == {1, 2}


def test_a_report_and_the_end_do_not_wait_for_the_next_beat() -> None:
    asked = Server()
    with beating(asked, beat_s=600.0) as thread:
        first = thread.wait_until(lambda beaten: beaten.initialized, lambda _: None)
        thread.tell(REPORT)
        thread.wait_until(lambda beaten: beaten is not first, lambda _: None)
        thread.tell(REPORT)
    assert [report.number for report in asked.reports] == [1, 2]


def test_a_thread_that_is_stopped_asks_a_silent_server_no_more() -> None:
    asked = Server(silences=10**9)
    with beating(asked, REPORT) as thread:
        thread.stop()
        thread._thread.join(PATIENCE_S)
        assert not thread._thread.is_alive()


def test_what_the_server_says_of_its_end_is_raised() -> None:
    with beating(Server(stopping="timeout")) as thread, pytest.raises(StoppingError):
        thread.wait_until(lambda _: False, lambda _: None)
