"""Writes how a run stands: as a table for a terminal, or as one line where there is none.

Both are made from the payload of `state` alone; docs/wire-format.md lists its keys.
"""

from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leash.ps.commands.accuracy_rows import accuracy_rows
from leash.ps.commands.logged_lines import logged_lines
from leash.ps.commands.worker_rows import waiting_text, worker_rows
from leash.ps.policy import Rule
from leash.ps.runs.unfinished import unfinished_text
from leash.ps.words import (
    DONE,
    FIGURES_ARE,
    INCOMPLETE,
    LAG_IS,
    LIVE,
    SMALLER_RATE,
    TAKES_PART,
    WAITING_IS,
    accuracy_text,
    duration,
    epoch_after,
    in_epoch_after,
    named_workers,
    why_stopped,
)

RunState = dict[str, Any]

MAX_WIDTH: Final = 100  # columns, so that a row is read at one glance in a wide terminal too


class RunTable:
    """The table: what runs, a row for each worker, the test accuracy by epoch.

    It fits the terminal that it is drawn on.
    """

    def __init__(self, state: RunState) -> None:
        self._state: Final = state

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield Constrain(Group(*_parts(self._state, min(options.max_width, MAX_WIDTH))), MAX_WIDTH)


def run_table(state: RunState) -> RenderableType:
    """Makes the table of a run that stands so."""
    return RunTable(state)


def _parts(state: RunState, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [_header(state), _progress(state)]
    parts += [Text(f"cannot write {told}", style="bold red") for told in _not_written(state)]
    parts += [Text(), worker_rows(state, width)]
    parts += [Text(line, style="yellow") for line in waits_of(state)]
    parts += [Text(line, style="dim") for line in what_figures_are(width)]
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in logged_lines(state)]
    if any(share is not None for share in state["test_accuracy_by_epoch"]):
        parts += [Text(), accuracy_rows(state["test_accuracy_by_epoch"], width)]
    if strangers := _strangers(state):
        parts.append(Text(f"refused: {strangers}", style="yellow"))
    return parts


def what_figures_are(width: int) -> list[str]:
    """Says what the figures of a table are: in one line where there is room, else in two."""
    return [FIGURES_ARE] if len(FIGURES_ARE) <= width else FIGURES_ARE.split("; ")


def plain_line(state: RunState) -> str:
    """One line that says how the run stands."""
    if not state["started"]:
        return waiting_for(state)
    lags = " ".join(str(row["lag"]) for row in state["table"] if row["state"] == LIVE)
    parts = [
        *([epoch] if (epoch := epoch_of(state)) else []),
        f"{state['steps']} steps",
        f"{state['steps_per_second']:.1f}/s",
        f"lags {lags}" if lags else "no worker is live",
    ]
    if state["test_accuracy"] is not None:
        parts.append(f"test accuracy {accuracy_text(state['test_accuracy'])}")
    parts += [f"cannot write {told}" for told in _not_written(state)]
    return ", ".join([*parts, *waits_of(state)])


def with_summary(state: RunState, summary: dict[str, Any]) -> RunState:
    """The state to show when a run has ended: the last one, with the figures of summary.json."""
    done = summary["ended"] == DONE
    over = done or summary["ended"] == INCOMPLETE
    lost = {part["worker"]: part["state"] for part in summary.get("unfinished", [])}
    rows = [
        {
            **row,
            "step": summary["steps_by_worker"].get(str(row["worker"]), row["step"]),
            "epoch": max(row["epoch"], summary["epochs"]) if done else row["epoch"],
            "wait_fraction": summary["wait_fraction_by_worker"].get(
                str(row["worker"]), row["wait_fraction"]
            ),
            "state": lost.get(row["worker"], DONE)
            if over and row["state"] in TAKES_PART
            else row["state"],
        }
        for row in state["table"]
    ]
    ended = {"finished": over, "stopping": "" if over else summary["ended"], "table": rows}
    return {**state, **summary, **ended}


def result_lines(summary: dict[str, Any], planned_epochs: int | None = None) -> list[str]:
    """The results of a run, in a few lines."""
    lines = []
    if summary["ended"] == INCOMPLETE:  # in no epoch: those who stayed came to their end
        lines.append(f"ended early     {INCOMPLETE}")
    elif summary["ended"] != DONE:
        epoch = in_epoch_after(summary["epochs"], planned_epochs)
        lines.append(f"ended early     {why_stopped(summary['ended'])}{epoch}")
    if unfinished := summary.get("unfinished"):
        lines.append(f"not trained     {unfinished_text(unfinished)}")
    if summary["test_accuracy"] is not None:
        lines.append(f"test accuracy   {accuracy_text(summary['test_accuracy'])}")
    waits = summary["wait_fraction_by_worker"].items()
    of_each = ", ".join(f"worker {w}: {waiting_text(share)}" for w, share in waits)
    again = summary.get("samples_twice", 0)
    nonfinite = summary.get("nonfinite_chunks", 0)
    not_finite = f"{nonfinite} gradients of chunks; {SMALLER_RATE}"
    if again:
        lines.append(f"used twice      {again} samples, after a worker had gone")
    dropped = summary.get("dropped_pushes", 0)
    lines += [f"not written     {told}" for told in _not_written(summary)]
    if missing := summary.get("events_missing", 0):
        lines.append(f"missing         {missing} events, which could not be written")
    most, least = summary.get("workers"), summary.get("least_workers")
    if least is not None and least != most:
        lines.append(
            f"workers         at most {summary['most_at_once']} at once, of {least} to {most}"
        )
    return [
        *lines,
        f"speed           {summary['steps_per_second']:.1f} steps/s "
        f"({summary['steps']} steps in {summary['train_seconds']:.1f} s)",
        f"waiting         {waiting_text(summary['wait_fraction'])} of the workers' time, "
        f"{WAITING_IS} ({of_each})",
        f"largest lag     {summary['max_lag']} {LAG_IS}",
        *([f"dropped         {dropped} gradients of chunks, too stale"] if dropped else []),
        *([f"not finite      {not_finite}"] if nonfinite else []),
        *([f"refused         {strangers}"] if (strangers := _strangers(summary)) else []),
    ]


def _strangers(figures: dict[str, Any]) -> str:
    """Says how many connections a server with keys has refused; empty for none."""
    count = figures.get("refused_connections", 0)
    return f"{count} connections, for want of a key that the server knows" if count else ""


def waiting_for(state: RunState) -> str:
    """Says for whom a run waits that has not started."""
    missing = state["missing"]
    return f"starting: waiting for {named_workers(missing) if missing else 'the evaluator'}"


def waits_of(state: RunState) -> list[str]:
    """Says for whom the workers wait, and the server, of a run that has started."""
    if state["stopping"] or state["finished"]:
        return []
    lines = [f"waiting for {held['text']}" for held in state.get("awaited", [])]
    if away := state.get("coming_back"):
        lines.append(f"waiting for {named_workers(away)} to come back")
    return lines


def stacks_of(state: RunState) -> list[str]:
    """Writes where the training threads of the workers are that have told their stacks."""
    return [
        f"worker {row['worker']}, {row['stack_s']:.0f} s ago, then in {row['phase']}:\n"
        f"{row['stack'].rstrip()}"
        for row in state["table"] if row.get("stack")
    ]  # fmt: skip


def epoch_of(state: RunState) -> str:
    """Says in which epoch the slowest worker is, and how many there are; empty if nobody tells."""
    done, planned = state["epochs"], state["planned_epochs"]
    if planned is None and done and not any(row["state"] in TAKES_PART for row in state["table"]):
        return f"epoch {done}"  # nobody has begun another
    return epoch_after(done, planned)


def rule_of(state: RunState) -> str:
    """Writes the rule by which the run goes."""
    return str(Rule.from_settings(state))


def _not_written(told: RunState | dict[str, Any]) -> list[str]:
    """A clause for each file that cannot be written, from a state or from summary.json."""
    files = told.get("not_written", [])
    if isinstance(files, list):
        return [str(file) for file in files]
    return [f"{name}: {of['why']}" for name, of in files.items() if of["lasts"]]


# The parts of the table.


def _header(state: RunState) -> RenderableType:
    task = " on ".join(name for name in (state["model"], state["dataset"]) if name)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    shards = f"  {state['shards']} shards" if state.get("shards", 1) > 1 else ""
    left = Text.assemble((rule_of(state), "bold"), f"  {task}" if task else "", shards)
    rate = f"{state['steps_per_second']:.1f} steps/s"
    right = Text.assemble((duration(state["train_seconds"]), "dim"), "  ", (rate, "bold"))
    grid.add_row(left, right if state["started"] else Text())
    return grid


def _progress(state: RunState) -> RenderableType:
    if not state["started"]:
        return Text(waiting_for(state), style="yellow")
    if state["stopping"]:
        return Text(f"ending: {why_stopped(state['stopping'])}", style="yellow")
    if state.get("unfinished"):
        return Text(f"over, but not done: {unfinished_text(state['unfinished'])}", style="yellow")
    if state["finished"]:
        return Text(f"finished after {state['epochs']} epochs", style="green")
    if state["planned_epochs"] is None:
        return Text(epoch_of(state) or f"{state['steps']} steps")
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    counted = (*TAKES_PART, DONE)
    completed = [row["epoch"] for row in state["table"] if row["state"] in counted]
    total = state["planned_epochs"] * max(1, len(completed))
    bar = ProgressBar(total=total, completed=sum(completed), complete_style="green")
    grid.add_row(epoch_of(state), bar)
    return grid
