"""Writes the results of an experiment as a table."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from leash.ps.experiments.outcome import RunOutcome
from leash.ps.experiments.plan import Experiment
from leash.ps.words import accuracy_text, percent


def outcome_table(experiment: Experiment, rows: Sequence[RunOutcome]) -> Table:
    """Makes the table: a row for each result, and below a line what others have published."""
    target = experiment.target_accuracy
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column("run", no_wrap=True)
    for title in ("s/epoch", "seconds", *_target_titles(target), "accuracy %", "waiting",
                  "÷ limit", "batches/s", "staleness", "max lag"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    first = rows[0]
    for row in rows:
        if row.part != first.part:
            table.add_section()
            first = row
        table.add_row(*_cells(row, first, target))
    if target is not None and experiment.published:
        table.add_section()
        for name, seconds in experiment.published.items():
            table.add_row(f"{name} (published)", "", "", f"{seconds:.0f}")
    return table


def _target_titles(target: float | None) -> list[str]:
    return [] if target is None else [f"to {percent(target, 1)}", "speed-up"]


def _cells(row: RunOutcome, first: RunOutcome, target: float | None) -> list[str]:
    cells = [row.name, f"{row.seconds_per_epoch:.1f}", f"{row.seconds:.1f}"]
    if target is not None:
        cells += [_number(row.seconds_to_target, 1), _speed_up(row, first)]
    return [
        *cells,
        "" if row.accuracy is None else accuracy_text(row.accuracy).removesuffix(" %"),
        percent(row.wait_share),
        "" if row.limit_ratio is None else f"{row.limit_ratio:.2f}",
        f"{row.batches_per_second:.1f}",
        f"{row.mean_staleness:.1f}",
        str(row.max_lag),
    ]


def _speed_up(row: RunOutcome, first: RunOutcome) -> str:
    if row.seconds_to_target is None or first.seconds_to_target is None:
        return ""
    return f"{first.seconds_to_target / row.seconds_to_target:.2f} ×"


def _number(value: float | None, digits: int) -> str:
    return "never" if value is None else f"{value:.{digits}f}"
