"""When a thing is due again that is done beside a run."""

import pytest

from leash.ps.runs.background.cadence import Cadence


class Machine:
    """The clock on the wall, and the time that the processor was used."""

    def __init__(self) -> None:
        self.now_s = self.used_s = 0.0

    def work(self, seconds: float) -> None:
        self.now_s += seconds
        self.used_s += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def cadence(machine: Machine) -> Cadence:
    return Cadence(1.0, 0.01, lambda: machine.now_s, lambda: machine.used_s)


@pytest.mark.parametrize(("cost_s", "then_s"), [(0.001, 1.0), (0.05, 5.0)])
def test_what_takes_long_is_due_less_often(
    cadence: Cadence, machine: Machine, cost_s: float, then_s: float
) -> None:
    assert cadence.is_due
    with cadence.doing():
        machine.work(cost_s)
    machine.now_s += 0.99 * then_s
    assert not cadence.is_due
    machine.now_s += 0.02 * then_s
    assert cadence.is_due


def test_what_has_failed_is_due_again_later(cadence: Cadence, machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError), cadence.doing():
        machine.work(1 / 0)
    assert not cadence.is_due
    machine.now_s += 1.01
    assert cadence.is_due


def test_waiting_costs_nothing(cadence: Cadence, machine: Machine) -> None:
    with cadence.doing():
        machine.now_s += 30.0
    machine.now_s += 1.01
    assert cadence.is_due
