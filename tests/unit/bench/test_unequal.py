"""Machines of unequal speed: that both kinds of runs are real, and what their rows say."""

import pytest

from leash.bench import unequal
from leash.bench.harness.trial import Trial
from leash.bench.options import BenchOptions
from leash.bench.unequal import DIGITS_TASK, MNIST_TASK, measure, row_of, task_of, unequal_trials
from leash.ps.demo.outcome import SideOutcome


def options(**given: object) -> BenchOptions:
    return BenchOptions(benchmark="unequal", **given)  # type: ignore[arg-type]


@pytest.mark.timeout(200)
def test_ddp_and_leash_train_as_many_steps_of_the_same_digits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ddp, bsp, _, _ = unequal_trials(DIGITS_TASK, 8)
    monkeypatch.setattr(unequal, "unequal_trials", lambda *_: [ddp, bsp])
    monkeypatch.delenv("MNIST", raising=False)
    told: list[str] = []
    rows = measure(options(short=True), lambda what, _: told.append(what))
    assert [(row.system, row.policy) for row in rows] == [("ddp", ""), ("leash", "bsp")]
    assert all("linear on digits, one 8 times slower" in what for what in told)
    for row in rows:
        # Nobody is faster than the slowest: it sleeps 80 ms before each step of all four.
        assert 0 < row.per_s < 4 / 0.08
        assert row.target == DIGITS_TASK.target
    # The same model, data, order and rate: they come to about the same digits.
    assert rows[0].accuracy == pytest.approx(rows[1].accuracy, abs=0.02)
    assert rows[0].accuracy > 0.7


def outcome(reached_s: float, per_s: float) -> SideOutcome:
    return SideOutcome(60.0, 600, per_s, (), ((reached_s / 2, 0.5), (reached_s, 0.95)))


def test_a_rows_figures_are_the_medians_of_its_runs() -> None:
    trial = Trial(bench="unequal", system="leash", policy="asp")
    found = [(outcome(s, per_s), None) for s, per_s in ((10.0, 40.0), (30.0, 50.0), (11.0, 45.0))]
    row = row_of(DIGITS_TASK, trial, found)
    assert (row.to_target_s, row.accuracy, row.repeats) == (11.0, 0.95, 3)
    assert row.per_s == pytest.approx(45.0)


def test_a_target_that_one_run_did_not_reach_was_not_reached() -> None:
    trial = Trial(bench="unequal", system="ddp")
    short = SideOutcome(60.0, 600, 9.0, (), ((30.0, 0.5),))
    assert (
        row_of(DIGITS_TASK, trial, [(outcome(10.0, 9.0), None), (short, None)]).to_target_s is None
    )


def test_mnist_is_trained_on_where_somebody_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MNIST", raising=False)
    assert task_of(options()) == DIGITS_TASK
    assert task_of(options(data_dir="data")).data_dir == "data"
    monkeypatch.setenv("MNIST", "elsewhere")
    assert task_of(options()).model == MNIST_TASK.model
    assert task_of(options()).data_dir == "elsewhere"
