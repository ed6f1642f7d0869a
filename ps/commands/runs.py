"""`leash runs`: lists the runs in a folder."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leash.ps.options.commands import RunsOptions
from leash.ps.runs.listing import NO_END, ListedRun, runs_below
from leash.ps.words import DONE, NONE, accuracy_text, duration

PIPE_WIDTH: Final = 240  # columns, where no terminal says how many there are
_DATE: Final = "%Y-%m-%d %H:%M"


def run(options: RunsOptions) -> int:
    """Prints a table, or JSON; the newest run comes first."""
    listed = runs_below(Path(options.folder))
    if options.json:
        print(json.dumps([_plain(run) for run in listed], indent=1))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(_table(listed) if listed else Text(f"no runs in {options.folder}"))
    return 0


def _plain(run: ListedRun) -> dict[str, object]:
    began = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.began))
    return {**asdict(run), "run": str(run.run), "began": began}


def _table(listed: list[ListedRun]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for name in ("run", "began", "what", "policy", "workers", "ended"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in listed:
        style = {DONE: "green", NO_END: "red"}.get(run.ended, "yellow")
        table.add_row(
            Text(str(run.run)), time.strftime(_DATE, time.localtime(run.began)), Text(run.what),
            Text(run.policy), run.workers, Text(run.ended, style),
            NONE if run.accuracy is None else accuracy_text(run.accuracy),
            NONE if run.seconds is None else duration(run.seconds),
        )  # fmt: skip
    return table
