"""`leash simulate`: what a cluster would do under a policy, or under several side by side."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from leash.ps.commands.run_table import duration, percent
from leash.ps.errors import LeashError, UsageError
from leash.ps.options.commands import SimulateConfig
from leash.ps.policy import BSP, Rule
from leash.ps.simulate.reply_gate import Gate
from leash.ps.simulate.simulation import FixedShares, Outcome, SharedWork, Simulation, Step, Work

SHOWN_WORKERS: Final = 10  # in a picture
MIN_WIDTH: Final = 120  # columns
SHOWN_STEPS: Final = 200  # of each


@dataclass(frozen=True, slots=True)
class Prediction:
    """A run that was simulated."""

    rule: Rule
    outcome: Outcome
    epochs: int | None  # None: the run was not measured in epochs
    first_steps: list[Step]  # of the first workers, for a picture

    @property
    def steps_per_second(self) -> float:
        return self.outcome.batches / self.outcome.seconds

    @property
    def epoch_s(self) -> float | None:
        return self.outcome.seconds / self.epochs if self.epochs else None

    def row(self) -> dict[str, Any]:
        """As JSON has it; names are those of summary.json where it has them too."""
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
            "wait_fraction_by_worker": {str(rank): round(share, 4) for rank, share in waits},
            "max_lag": outcome.max_lag,
            "mean_staleness": round(outcome.mean_staleness, 3),
            "step_p50_seconds": round(outcome.step_percentile(50), 6),
            "step_p99_seconds": round(outcome.step_percentile(99), 6),
            "failures": outcome.failures,
        }


def run(config: SimulateConfig) -> int:
    """Prints a table, or JSON; draws where asked to. Returns the exit status."""
    if config.plot is not None:
        _require_matplotlib(config.plot)
    predictions = _predict_all(config)
    if config.json:
        print(json.dumps([prediction.row() for prediction in predictions], indent=1))
    else:
        _show(predictions, config)
    if config.plot is not None:
        from leash.ps.simulate.picture import draw

        draw(predictions, Path(config.plot))
    return 0


def predict(
    config: SimulateConfig, rule: Rule, on_progress: Callable[[int], None] = lambda _: None
) -> Prediction:
    """Plays one run.

    Raises:
        LeashError: it took no time at all.
    """
    first_steps: list[Step] = []

    def keep(step: Step) -> None:
        if step.worker <= SHOWN_WORKERS and len(first_steps) < SHOWN_WORKERS * SHOWN_STEPS:
            first_steps.append(step)

    simulation = Simulation(
        config.cluster(config.workers), Gate(rule), _work(config, rule),
        seed=config.seed, local_steps=config.local_steps,
        on_step=keep if config.plot else None, on_progress=on_progress,
    )  # fmt: skip
    outcome = simulation.run()
    if outcome.seconds == 0.0:
        raise LeashError("the whole run took no time: say what a batch takes, with --compute")
    return Prediction(rule, outcome, config.epochs if config.samples else None, first_steps)


def _predict_all(config: SimulateConfig) -> list[Prediction]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        predictions = []
        for rule in config.rules():
            bar = progress.add_task(str(rule), total=_batches(config, rule))
            predictions.append(predict(config, rule, partial(_advance, progress, bar)))
        return predictions


def _advance(progress: Progress, bar: TaskID, batches: int) -> None:
    progress.update(bar, completed=batches)


def _work(config: SimulateConfig, rule: Rule) -> Work:
    if _is_static(config, rule):
        return FixedShares(config.workers, config.batches_each)
    return SharedWork(config.total_batches)


def _batches(config: SimulateConfig, rule: Rule) -> int:
    static = _is_static(config, rule)
    return config.workers * config.batches_each if static else config.total_batches


def _is_static(config: SimulateConfig, rule: Rule) -> bool:
    plan = config.data_plan or ("static" if rule.policy is BSP else "lease")
    return plan == "static"


def _require_matplotlib(path: str) -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError(f"--plot {path}: needs matplotlib, which is not installed: "
                         "pip install 'leash[bench]'")  # fmt: skip


# The table.


def _show(predictions: list[Prediction], config: SimulateConfig) -> None:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False,
        header_style="dim", border_style="dim",
    )  # fmt: skip
    table.add_column("policy", no_wrap=True)
    shown = [column for column in _COLUMNS if column != "epoch" or config.samples]
    shown = [column for column in shown if column != "failures" or config.failures]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for prediction in predictions:
        cells = (_COLUMNS[name](prediction) for name in shown)
        table.add_row(Text(str(prediction.rule), "bold"), *cells)
    # All of it, however narrow the terminal is: a cell that was cut tells nothing.
    console = Console(width=max(Console().width, MIN_WIDTH))
    console.print(table)


_COLUMNS: Final[dict[str, Callable[[Prediction], str]]] = {
    "steps/s": lambda p: f"{p.steps_per_second:.1f}",
    "waiting": lambda p: percent(p.outcome.wait_fraction),
    "largest lag": lambda p: str(p.outcome.max_lag),
    "mean staleness": lambda p: f"{p.outcome.mean_staleness:.1f}",
    "step, median": lambda p: _time(p.outcome.step_percentile(50)),
    "99 %": lambda p: _time(p.outcome.step_percentile(99)),
    "failures": lambda p: str(p.outcome.failures),
    "epoch": lambda p: _time(p.epoch_s or 0.0),
    "whole run": lambda p: _time(p.outcome.seconds),
}


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else duration(seconds)
