"""What a worker says while others are missing."""

import math
from dataclasses import replace

import pytest

from leash.ps.wire.messages import Beaten
from leash.worker.client.control.waiting import MOMENT_S, Outage, Waiting, awaited

MISSING_2 = Beaten(False, [2], False, False, 0, False, "")
MISSING_2_AND_3 = replace(MISSING_2, missing=[2, 3])
BEGUN = Beaten(True, [], False, True, 0, False, "")


@pytest.mark.parametrize(
    ("beaten", "whom"),
    [
        (None, ""),
        (MISSING_2, "worker 2"),
        (MISSING_2_AND_3, "workers 2-3"),
        (replace(MISSING_2, initialized=True), "worker 2"),  # a server that goes on from a file
        (replace(MISSING_2, missing=[]), "the evaluator"),
        (replace(BEGUN, initialized=False), "the first values"),
        (replace(BEGUN, initialized=False, initialize=True), ""),
        (BEGUN, ""),
    ],
)
def test_whom_a_run_waits_for_follows_from_the_answer_to_a_beat(
    beaten: Beaten | None, whom: str
) -> None:
    assert awaited(beaten).startswith(whom)
    assert bool(awaited(beaten)) == bool(whom)


class Teller:
    """A `Waiting` whose time passes as the test says."""

    def __init__(self, **times: float) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.waiting = Waiting(self.said.append, now=lambda: self.now_s, **times)

    def after(self, seconds: float, beaten: Beaten) -> list[str]:
        self.now_s += seconds
        self.waiting.workers(beaten)
        return self.said


def test_a_command_says_it_at_once_and_again_every_few_seconds() -> None:
    teller = Teller(again_s=5.0)
    assert teller.after(0, MISSING_2) == ["waiting for worker 2"]
    assert teller.after(4.9, MISSING_2) == ["waiting for worker 2"]
    assert teller.after(0.2, MISSING_2) == 2 * ["waiting for worker 2"]


def test_a_library_says_it_after_a_moment_once_and_again_when_it_changes() -> None:
    said: list[str] = []
    times = [0.0]
    waiting = Waiting.of_library(said.append, now=lambda: times[-1])
    for now_s, beaten in (
        (0.0, MISSING_2_AND_3), (0.9 * MOMENT_S, MISSING_2_AND_3), (MOMENT_S, MISSING_2_AND_3),
        (1000.0, MISSING_2_AND_3), (1001.0, MISSING_2), (9000.0, MISSING_2), (9001.0, BEGUN),
    ):  # fmt: skip
        times.append(now_s)
        waiting.workers(beaten)
    assert said == ["waiting for workers 2-3", "waiting for worker 2"]


class Silences:
    """An `Outage` whose time passes as the test says."""

    def __init__(self, patience_s: float = 600.0) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.outage = Outage(
            self.said.append, "tcp://far:1", patience_s, clock=lambda: self.now_s,
            now=lambda: self.now_s,
        )  # fmt: skip

    def after(self, seconds: float, waited_s: float) -> list[str]:
        """What is said when, so much later, a request has waited for so long."""
        self.now_s += seconds
        before = len(self.said)
        self.outage.note(waited_s)
        return self.said[before:]


def test_an_outage_is_said_once_then_seldom_and_when_it_is_over() -> None:
    silences = Silences()
    assert silences.after(2.0, 2.0) == []
    (first,) = silences.after(2.0, 4.0)
    assert first.startswith("waiting for the server at tcp://far:1, which has not answered since ")
    assert "keeps trying for 10 min (--patience)" in first
    for _ in range(29):
        assert silences.after(2.0, 10.0) == []
    (again,) = silences.after(2.0, 64.0)
    assert again == first
    assert silences.after(1.0, 0.0) == ["the server at tcp://far:1 answers again, after 65 s"]
    assert silences.after(1.0, 0.0) == []


def test_a_new_outage_is_said_anew_but_not_that_another_request_still_waits() -> None:
    silences = Silences()
    assert silences.after(4.0, 4.0)
    assert silences.after(1.0, 0.0)
    assert silences.after(1.0, 6.0) == []  # it began before the answer to the other one
    assert silences.after(4.0, 4.0) != []


def test_whoever_tries_for_ever_says_so() -> None:
    assert "keeps trying for ever (--patience)" in Silences(math.inf).after(4.0, 4.0)[0]


def test_while_a_run_goes_on_it_is_said_seldom_for_whom_a_worker_waits() -> None:
    now_s, said = [0.0], list[str]()
    waiting = Waiting.for_others(said.append, now=lambda: now_s[0])
    for seconds, whom in ((0, "worker 3 for 5 s"), (30, "worker 3 for 35 s"),
                          (31, "worker 3 for 66 s"), (1, ""), (1, "worker 3 for 5 s")):  # fmt: skip
        now_s[0] += seconds
        waiting.others(whom)
    assert said == [
        "waiting for worker 3 for 5 s", "waiting for worker 3 for 66 s",
        "waiting for worker 3 for 5 s",
    ]  # fmt: skip
