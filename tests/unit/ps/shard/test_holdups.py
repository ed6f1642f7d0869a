"""For whom the others wait, by their clocks and by what they tell."""

import time

import pytest

from leash.ps.shard.holdups import ASK_S, STACK_S, TELL_S, HoldUps
from leash.ps.shard.members import Members

NOON_US = 1_700_000_000_000_000


class Run:
    """Three workers, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.members = Members([1, 2, 3], 5.0, lambda: self.now_s)
        for rank in (1, 2, 3):
            self.members.hello(rank, f"process {rank}")
        self.holdups = HoldUps(self.members, lambda: self.now_s, lambda: NOON_US)

    def look(self, *clocks: int, is_waiting: bool = True) -> list[int]:
        """Who holds the others up, by these clocks of worker 1, 2 and 3."""
        self.holdups.look(dict(enumerate(clocks, start=1)), is_waiting=is_waiting)
        return sorted(self.holdups.all)

    def beats(self, rank: int, phase: str, phase_s: float, stack: str = "") -> None:
        self.members.note_phase(self.members.workers[rank], phase, phase_s, stack)


@pytest.mark.parametrize(
    ("clocks", "is_waiting", "behind"),
    [
        ((5, 5, 4), True, [3]),
        ((5, 4, 4), True, [2, 3]),
        ((5, 5, 5), True, []),
        ((9, 5, 4), False, []),
        ((5,), True, []),
        ((), True, []),
    ],
)
def test_the_slowest_hold_up_those_who_wait(
    clocks: tuple[int, ...], is_waiting: bool, behind: list[int]
) -> None:
    assert Run().look(*clocks, is_waiting=is_waiting) == behind


def test_a_wait_is_told_once_it_is_long_and_begins_anew_with_each_step() -> None:
    run = Run()
    for step in range(1, 4):
        run.look(step + 1, step + 1, step)
        assert run.holdups.words() == ""
        run.now_s += TELL_S
        run.look(step + 1, step + 1, step)
        assert run.holdups.words() == f"worker 3 for {TELL_S:.0f} s"


def test_it_says_what_the_slow_one_does_and_since_when() -> None:
    run = Run()
    run.look(2, 2, 1)
    run.beats(3, "backward", 4.0)
    run.now_s += 41.0
    words = run.holdups.words()
    since = time.strftime("%H:%M", time.localtime(NOON_US / 1e6 - 45.0))
    assert words == f"worker 3 for 41 s (in backward since {since})"
    assert run.holdups.as_dicts() == [{"worker": 3, "seconds": 41.0, "text": words}]
    assert run.holdups.row_of(run.members.workers[3])["phase_s"] == 45.0


def test_whoever_is_stuck_is_asked_for_its_stack_once() -> None:
    run = Run()
    run.look(2, 2, 1)
    run.beats(3, "backward", 0.0)
    slow = run.members.workers[3]
    assert not run.holdups.wants_stack(slow)
    run.now_s += STACK_S
    assert run.holdups.wants_stack(slow)
    assert not run.holdups.wants_stack(run.members.workers[1])
    run.beats(3, "backward", STACK_S, "in f")
    assert not run.holdups.wants_stack(slow)


def test_all_who_tell_anything_are_asked_for_their_stacks_for_a_while() -> None:
    run = Run()
    run.beats(1, "data", 1.0)
    run.now_s += 5.0
    run.holdups.ask_all()
    asked = [rank for rank, m in run.members.workers.items() if run.holdups.wants_stack(m)]
    assert asked == [1]
    run.now_s += ASK_S
    assert not run.holdups.wants_stack(run.members.workers[1])


def test_only_who_holds_others_up_stalls() -> None:
    run = Run()
    for rank in (1, 2, 3):
        run.beats(rank, "backward", 10.0)
    assert run.holdups.stalled(5.0) == []
    run.look(2, 2, 1)
    assert run.holdups.stalled(5.0) == [3]
    assert run.holdups.stalled(20.0) == []
