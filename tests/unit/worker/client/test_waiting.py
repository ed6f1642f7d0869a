"""What a worker says while others are missing."""

from dataclasses import replace

import pytest

from leash.ps.wire.messages import Beaten
from leash.worker.client.waiting import MOMENT_S, Waiting, awaited

MISSING_2 = Beaten(False, [2], False, False, 0, False, "")
MISSING_2_AND_3 = replace(MISSING_2, missing=[2, 3])
BEGUN = Beaten(True, [], False, True, 0, False, "")


@pytest.mark.parametrize(
    ("beaten", "whom"),
    [
        (None, ""),
        (MISSING_2, "worker 2"),
        (MISSING_2_AND_3, "worker 2, 3"),
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
    assert said == ["waiting for worker 2, 3", "waiting for worker 2"]
