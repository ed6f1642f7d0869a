"""`leash simulate`: predicts what a cluster does under one policy, or several side by side."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from leash._extras import install_command, is_installed
from leash.ps.errors import UsageError
from leash.ps.options.base import make_folder
from leash.ps.simulate.options import SimulateOptions
from leash.ps.simulate.prediction import Prediction, batches_of, predict
from leash.ps.words import FIGURES_ARE, duration, percent

MIN_WIDTH: Final = 120  # columns


def run(options: SimulateOptions) -> int:
    """Plays the runs; prints a table or JSON, and draws if asked to. Returns the exit status."""
    if options.plot is not None:
        _require_matplotlib(options.plot)
        make_folder("--plot", Path(options.plot).parent)
    predictions = _predict_all(options)
    if options.json:
        print(json.dumps([prediction.row() for prediction in predictions], indent=1))
    else:
        _show(predictions, options)
    if options.plot is not None:
        from leash.ps.simulate.picture import draw

        draw(predictions, Path(options.plot))
    return 0


def _predict_all(options: SimulateOptions) -> list[Prediction]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        predictions = []
        for rule in options.rules():
            bar = progress.add_task(str(rule), total=batches_of(options, rule))
            predictions.append(predict(options, rule, partial(_advance, progress, bar)))
        return predictions


def _advance(progress: Progress, bar: TaskID, batches: int) -> None:
    progress.update(bar, completed=batches)


def _require_matplotlib(path: str) -> None:
    if not is_installed("matplotlib"):
        raise UsageError(f"--plot {path}: needs matplotlib, which is not installed: "
                         f"{install_command('matplotlib')}")  # fmt: skip


# The table.


def _show(predictions: list[Prediction], options: SimulateOptions) -> None:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False,
        header_style="dim", border_style="dim",
    )  # fmt: skip
    table.add_column("policy", no_wrap=True)
    shown = [column for column in _COLUMNS if column != "epoch" or options.samples]
    shown = [column for column in shown if column != "failures" or options.failures]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for prediction in predictions:
        cells = (_COLUMNS[name](prediction) for name in shown)
        table.add_row(Text(str(prediction.rule), "bold"), *cells)
    # The table is whole however narrow the terminal is: a cell that is cut is of no use.
    console = Console(width=max(Console().width, MIN_WIDTH))
    console.print(table)
    console.print(Text(FIGURES_ARE, "dim"))


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
