"""Plays one run in virtual time, and gives its results."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.errors import LeashError
from leash.ps.policy import BSP, Rule
from leash.ps.simulate.options import SimulateOptions
from leash.ps.simulate.reply_gate import Gate
from leash.ps.simulate.simulation import (
    FixedShares,
    SharedWork,
    Simulation,
    SimulationTotals,
    Step,
    Work,
)

SHOWN_WORKERS: Final = 10  # a picture has no more
SHOWN_STEPS: Final = 200  # no more are kept of each worker


@dataclass(frozen=True, slots=True)
class Prediction:
    """The results of a simulated run."""

    rule: Rule
    outcome: SimulationTotals
    epochs: int | None  # None: the run was not measured in epochs
    limit: float | None  # of steps a second, by the server; None where nothing limits it
    first_steps: list[Step]  # the first steps of the first workers, for a picture

    @property
    def steps_per_second(self) -> float:
        return self.outcome.batches / self.outcome.seconds

    @property
    def epoch_s(self) -> float | None:
        return self.outcome.seconds / self.epochs if self.epochs else None

    def row(self) -> dict[str, Any]:
        """The row for JSON; figures that summary.json has too have the same names."""
        outcome = self.outcome
        waits = enumerate(outcome.wait_fractions, start=1)
        return {
            "policy": self.rule.policy.name,
            "bound": self.rule.bound,
            "steps": outcome.batches,
            "pushes": outcome.pushes,
            "train_seconds": round(outcome.seconds, 6),
            "epoch_seconds": None if self.epoch_s is None else round(self.epoch_s, 6),
            "steps_per_second": round(self.steps_per_second, 4),
            "wait_fraction": round(outcome.wait_fraction, 4),
            "held_fraction": round(outcome.held_fraction, 4),
            "server_fraction": round(outcome.server_fraction, 4),
            "limit_steps_per_second": None if self.limit is None else round(self.limit, 4),
            "wait_fraction_by_worker": {str(rank): round(share, 4) for rank, share in waits},
            "max_lag": outcome.max_lag,
            "mean_staleness": round(outcome.mean_staleness, 3),
            "step_p50_seconds": round(outcome.step_percentile(50), 6),
            "step_p99_seconds": round(outcome.step_percentile(99), 6),
            "failures": outcome.failures,
        }


def predict(
    options: SimulateOptions, rule: Rule, on_progress: Callable[[int], None] = lambda _: None
) -> Prediction:
    """Plays one run.

    Raises:
        LeashError: the run took no time at all.
    """
    first_steps: list[Step] = []

    def keep(step: Step) -> None:
        if step.worker <= SHOWN_WORKERS and len(first_steps) < SHOWN_WORKERS * SHOWN_STEPS:
            first_steps.append(step)

    simulation = Simulation(
        options.cluster, Gate(rule), _work(options, rule),
        seed=options.seed, local_steps=options.local_steps,
        on_step=keep if options.plot else None, on_progress=on_progress,
    )  # fmt: skip
    outcome = simulation.run()
    if outcome.seconds == 0.0:
        raise LeashError("the whole run took no time: say what a batch takes, with --compute")
    limit = options.cluster.push_limit
    return Prediction(
        rule, outcome, options.epochs if options.samples else None,
        None if limit is None else options.local_steps * limit, first_steps,
    )  # fmt: skip


def _work(options: SimulateOptions, rule: Rule) -> Work:
    if _is_static(options, rule):
        return FixedShares(options.workers, options.batches_each)
    return SharedWork(options.total_batches)


def batches_of(options: SimulateOptions, rule: Rule) -> int:
    """How many batches the run has, over all workers."""
    static = _is_static(options, rule)
    return options.workers * options.batches_each if static else options.total_batches


def _is_static(options: SimulateOptions, rule: Rule) -> bool:
    is_fixed = rule.policy is BSP and not options.changes
    plan = options.data_plan or ("static" if is_fixed else "lease")
    return plan == "static"
