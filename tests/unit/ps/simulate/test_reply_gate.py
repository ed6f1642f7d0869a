"""Who is let go when, against a model that looks at everybody every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.policy import choose_rule
from leash.ps.simulate.reply_gate import Gate

RULES = (("bsp", None), ("ssp", 1), ("ssp", 3), ("asp", None))


class Naive:
    """Each worker's clock, who waits, and whom the bound lets go."""

    def __init__(self, bound: int | None) -> None:
        self.bound = bound
        self.clocks: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.minimum = 0  # it stays when the last one leaves

    def let_go(self) -> set[int]:
        self.minimum = min(self.clocks.values(), default=self.minimum)
        free = {
            worker for worker in self.waiting
            if self.bound is None or self.clocks[worker] - self.minimum <= self.bound
        }  # fmt: skip
        self.waiting -= free
        return free


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(choices=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=80))
def test_those_are_let_go_whom_the_bound_lets_go(
    rule: tuple[str, int | None], choices: list[tuple[int, int]]
) -> None:
    chosen = choose_rule(*rule)
    gate, naive = Gate(chosen), Naive(chosen.bound)
    for choice, worker in choices:
        if worker not in naive.clocks:
            gate.join(worker)
            naive.clocks[worker] = naive.minimum
        elif choice == 0:
            del naive.clocks[worker]
            naive.waiting.discard(worker)
            assert sorted(gate.leave(worker)) == sorted(naive.let_go())
        elif worker not in naive.waiting:
            naive.clocks[worker] += 1
            naive.waiting.add(worker)
            assert sorted(gate.tick(worker, 0.0)) == sorted(naive.let_go())
            assert gate.lag(worker) == naive.clocks[worker] - naive.minimum


def test_a_version_is_an_update_of_all_under_bsp_and_of_each_otherwise() -> None:
    bsp, asp = Gate(choose_rule("bsp", None)), Gate(choose_rule("asp", None))
    for gate in (bsp, asp):
        gate.join(1)
        gate.join(2)
        gate.tick(1, 0.0)
    assert (bsp.version(), asp.version()) == (0, 1)
    for gate in (bsp, asp):
        gate.tick(2, 0.0)
    assert (bsp.version(), asp.version()) == (1, 2)


def test_a_dynamic_bound_lets_the_fastest_take_more_steps_while_that_pays() -> None:
    gate = Gate(choose_rule("dssp", 1, 5))
    for worker in (1, 2):
        gate.join(worker)
    steps = 0
    while 1 in gate.tick(1, steps * 0.1) and steps < 9:
        steps += 1
    # One step is the lower limit; how many more depends on the pace of the slowest, which has none.
    assert 1 <= steps <= 5


def test_a_round_with_a_backup_worker_does_not_wait_for_the_last() -> None:
    gate = Gate(choose_rule("backup", None, None, 1))
    for worker in (1, 2, 3):
        gate.join(worker)
    assert gate.tick(1, 0.0) == []
    assert sorted(gate.tick(2, 0.1)) == [1, 2]
    assert gate.version() == 1
    assert gate.tick(3, 0.2) == [3]  # too late for the round: answered, and not applied
    assert gate.version() == 1
