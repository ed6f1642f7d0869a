"""`leash simulate`: predicts what a cluster does under one policy, or several side by side."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from leash._extras import install_command, is_installed
from leash.ps.commands.printing import print_line
from leash.ps.errors import UsageError
from leash.ps.options.base import make_folder
from leash.ps.simulate.options import SimulateOptions
from leash.ps.simulate.prediction import Prediction, batches_of, predict
from leash.ps.words import FIGURES_ARE, duration, listed, percent

MIN_WIDTH, WIDEST = 120, 400  # columns
AT_LIMIT: Final = 0.9  # a run that does so much of what the server can is limited by it


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

        draw(predictions, options.workers, Path(options.plot))
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
    if not any(prediction.outcome.server_fraction for prediction in predictions):
        shown = [column for column in shown if column not in _SPLIT]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for prediction in predictions:
        cells = (_COLUMNS[name](prediction) for name in shown)
        table.add_row(Text(str(prediction.rule), "bold"), *cells)
    # The table is whole however narrow the terminal is: a cell that is cut is of no use.
    console, width = Console(), Console().width
    console.width = WIDEST
    console.width = max(width, MIN_WIDTH, console.measure(table).maximum)
    console.print(table)
    console.print(Text(FIGURES_ARE, "dim"))
    for line in (split_of(predictions), limit_of(predictions, options)):
        if line:
            print_line(console, line)


def split_of(predictions: Sequence[Prediction]) -> str:
    """Says of what waiting consists, where it is not for others alone; else nothing."""
    if not any(prediction.outcome.server_fraction for prediction in predictions):
        return ""
    return ("of it for others: until the policy lets the answer go; for the server: for its link "
            "and its work, behind the messages of others; the rest is the network's")  # fmt: skip


def limit_of(predictions: Sequence[Prediction], options: SimulateOptions) -> str:
    """Says how fast the server can be at most, why, and how near each policy comes to that."""
    limit, cluster = predictions[0].limit, options.cluster
    if limit is None:
        return ""
    if cluster.transfer_s >= cluster.server_s:
        what = "the server's link"
        why = (f"{options.model_mb:g} MB each way take {_time(cluster.transfer_s)} at "
               f"{options.bandwidth_gbit:g} Gbit/s")  # fmt: skip
    else:
        what, why = "the server's work", f"a push takes {_time(cluster.server_s)}"
    local = f", with {options.local_steps} to a push" if options.local_steps > 1 else ""
    shares = [f"{p.rule} {percent(p.steps_per_second / limit)}" for p in predictions]
    nearest = max(p.steps_per_second for p in predictions) / limit
    is_limit = "is the limit" if nearest >= AT_LIMIT else "would be the limit"
    return (f"{what} {is_limit}: {why}, so that no policy does more than {limit:.1f} steps/s"
            f"{local}; of that {listed(shares)}")  # fmt: skip


_COLUMNS: Final[dict[str, Callable[[Prediction], str]]] = {
    "steps/s": lambda p: f"{p.steps_per_second:.1f}",
    "waiting": lambda p: percent(p.outcome.wait_fraction),
    "for others": lambda p: percent(p.outcome.held_fraction),
    "for the server": lambda p: percent(p.outcome.server_fraction),
    "largest lag": lambda p: str(p.outcome.max_lag),
    "mean staleness": lambda p: f"{p.outcome.mean_staleness:.1f}",
    "step, median": lambda p: _time(p.outcome.step_percentile(50)),
    "99 %": lambda p: _time(p.outcome.step_percentile(99)),
    "failures": lambda p: str(p.outcome.failures),
    "epoch": lambda p: _time(p.epoch_s or 0.0),
    "whole run": lambda p: _time(p.outcome.seconds),
}


_SPLIT: Final = ("for others", "for the server")


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else duration(seconds)
