"""The staleness clock: named cases, then any sequence of calls against a dictionary."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leash.ps._core import StepClock


def clock_of(bound: int | None, **clocks: int) -> StepClock:
    clock = StepClock(bound)
    for name, value in clocks.items():
        clock.join(int(name.removeprefix("w")), value)
    return clock


def test_a_tick_returns_the_new_clock() -> None:
    clock = clock_of(None, w1=4)
    assert [clock.tick(1), clock.tick(1), clock.clock(1)] == [5, 6, 6]


def test_the_minimum_is_that_of_the_slowest_worker() -> None:
    clock = clock_of(1, w1=0, w2=0)
    clock.tick(1)
    assert (clock.minimum(), clock.lag(1), clock.lag(2)) == (0, 1, 0)
    clock.tick(2)
    assert (clock.minimum(), clock.lag(1)) == (1, 0)


@pytest.mark.parametrize(("bound", "admitted"), [(0, 0), (1, 1), (3, 3)])
def test_a_worker_is_admitted_up_to_the_bound_and_no_further(bound: int, admitted: int) -> None:
    clock = clock_of(bound, w1=0, w2=0)
    for _ in range(admitted):
        clock.tick(1)
        assert clock.admits(1)
    clock.tick(1)
    assert not clock.admits(1)
    assert clock.admits(2)


def test_without_a_bound_everyone_is_admitted() -> None:
    clock = clock_of(None, w1=0, w2=1000)
    assert clock.admits(2)
    assert clock.bound is None


def test_the_slowest_worker_leaving_advances_the_minimum() -> None:
    clock = clock_of(2, w1=1, w2=5, w3=7)
    clock.leave(1)
    assert clock.minimum() == 5


def test_the_last_minimum_stays_when_nobody_is_live() -> None:
    clock = clock_of(2, w1=3)
    assert (StepClock(None).minimum(), clock.minimum()) == (0, 3)
    clock.leave(1)
    assert (clock.minimum(), len(clock), clock.workers()) == (3, 0, [])
    with pytest.raises(ValueError, match="expected a clock of at least 3"):
        clock.join(1, 2)


def test_a_worker_cannot_join_twice_or_below_the_minimum_or_as_zero() -> None:
    clock = clock_of(2, w1=3)
    with pytest.raises(ValueError, match="worker 1: is live already"):
        clock.join(1, 3)
    with pytest.raises(ValueError, match=r"expected a clock of at least 3, .* got 2"):
        clock.join(2, 2)
    with pytest.raises(ValueError, match="worker 0: expected an id of at least 1"):
        clock.join(0, 3)
    assert clock.workers() == [1]


@pytest.mark.parametrize("method", ["leave", "tick", "clock", "lag", "admits", "is_fastest"])
def test_a_worker_that_is_not_live_is_a_key_error(method: str) -> None:
    with pytest.raises(KeyError, match="worker 7 is not live"):
        getattr(clock_of(0, w1=0), method)(7)


def test_workers_come_in_ascending_order() -> None:
    clock = clock_of(0, w9=2, w2=4, w5=2)
    assert clock.workers() == [2, 5, 9]
    assert (5 in clock, 6 in clock) == (True, False)


class ClockMachine(RuleBasedStateMachine):
    """The clock beside a dictionary of clocks."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = StepClock(2)
        self.clocks: dict[int, int] = {}
        self.moments: dict[int, int] = {}  # when each came to its clock
        self.minimum = 0

    def came(self, worker: int) -> None:
        self.moments[worker] = 1 + max(self.moments.values(), default=0)

    def update_minimum(self) -> None:
        previous = self.minimum
        self.minimum = min(self.clocks.values(), default=previous)
        assert self.minimum >= previous

    @rule(worker=st.integers(1, 6), ahead=st.integers(-1, 4))
    def join(self, worker: int, ahead: int) -> None:
        value = max(0, self.minimum + ahead)
        if worker in self.clocks or value < self.minimum:
            with pytest.raises(ValueError):
                self.clock.join(worker, value)
            return
        self.clock.join(worker, value)
        self.clocks[worker] = value
        self.came(worker)
        self.update_minimum()

    @precondition(lambda self: self.clocks)
    @rule(data=st.data(), times=st.integers(1, 4))
    def tick(self, data: st.DataObject, times: int) -> None:
        worker = data.draw(st.sampled_from(sorted(self.clocks)))
        for _ in range(times):
            self.clocks[worker] += 1
            assert self.clock.tick(worker) == self.clocks[worker]
            self.came(worker)
        self.update_minimum()

    @precondition(lambda self: self.clocks)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.clocks)))
        self.clock.leave(worker)
        del self.clocks[worker]
        self.update_minimum()

    @invariant()
    def agrees_with_the_dictionary(self) -> None:
        assert self.clock.workers() == sorted(self.clocks)
        assert len(self.clock) == len(self.clocks)
        assert self.clock.minimum() == self.minimum
        slowest = min(self.clocks, key=lambda w: (self.clocks[w], self.moments[w]), default=0)
        assert self.clock.slowest() == slowest
        for worker, value in self.clocks.items():
            assert self.clock.is_fastest(worker) == (value == max(self.clocks.values()))
            assert self.clock.clock(worker) == value
            assert self.clock.lag(worker) == value - self.minimum
            assert self.clock.admits(worker) == (value - self.minimum <= 2)


TestAnySequenceOfCalls = ClockMachine.TestCase
TestAnySequenceOfCalls.settings = settings(deadline=None, stateful_step_count=60)
