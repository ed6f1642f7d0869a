"""Who goes on in lockstep with a server that was started again, and what is lost."""

from typing import Any

import pytest

from leash.ps.recovery.recovery import Recovery
from leash.ps.wire.messages import Remember

FIRST = 8  # the first step that is not in all values


def told(worker: int, step: int = 0, *, begun: bool = False, lost: int = 0) -> Remember:
    return Remember(worker, 1, lost, 0, 0, 0, step=step, begun=begun)


def recovered(*each: Remember, ranks: Any = (1, 2, 3)) -> Recovery:
    recovery = Recovery(ranks, until_s=10.0)
    for one in each:
        recovery.take(one)
    return recovery


def test_all_go_on_in_the_step_in_which_they_were() -> None:
    recovery = recovered(
        told(1, FIRST, begun=True),
        told(2, FIRST),  # between two steps
        told(3, FIRST - 1, begun=True),  # which is in all values: somebody had all of its answers
    )
    assert recovery.in_step(FIRST) == [1, 2, 3]
    assert recovery.lost([1, 2, 3]) == 0


def test_a_process_that_is_new_hinders_nobody_and_is_not_in_the_step() -> None:
    recovery = recovered(told(1, FIRST, begun=True), told(2))
    assert recovery.in_step(FIRST) == [1]


@pytest.mark.parametrize(
    "hinders",
    [told(2, lost=1), told(2, FIRST - 1), told(2, FIRST + 1, begun=True), told(2, FIRST - 2)],
    ids=["gave its step up", "a step behind", "a step ahead", "two behind"],
)
def test_where_one_cannot_nobody_goes_on_in_lockstep_and_every_open_step_is_lost(
    hinders: Remember,
) -> None:
    recovery = recovered(told(1, FIRST, begun=True), hinders, told(3, FIRST))
    assert recovery.in_step(FIRST) == []
    assert recovery.lost([]) == 1 + max(hinders.lost, hinders.begun)


def test_whoever_was_not_there_to_the_last_hinders_nobody_and_loses_its_step() -> None:
    recovery = recovered(told(1, FIRST, begun=True), told(2, 3, begun=True), ranks=[1])
    assert recovery.in_step(FIRST) == [1]
    assert recovery.lost([1]) == 1


def test_what_was_torn_counts_as_lost_though_its_step_goes_on() -> None:
    assert recovered(told(1, FIRST, begun=True, lost=1)).lost([1]) == 1
