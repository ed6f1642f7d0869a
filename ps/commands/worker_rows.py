"""The workers' rows of a run's table, in as many columns as the terminal has room for."""

from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from leash.ps.policy import CLOCKS
from leash.ps.words import (
    AWAITED,
    DONE,
    EVICTED,
    FAILED,
    LIVE,
    NONE,
    REPLACED,
    RESTING,
    STOPPED,
    TAKES_PART,
    TIMED_OUT,
    percent,
)

MUCH_WAITING: Final = 0.3
COLUMN_NAMES: Final = (
    "worker", "process", "state", "epoch", "step", "lag", "waiting", "samples/s", "loss",
)  # fmt: skip
# Where a terminal is too narrow these go, one after the other; the others say who holds whom up.
LEFT_OUT: Final = ("process", "epoch", "loss", "samples/s")
LEAST_PROCESS: Final = 8  # columns for the name of a process, which may be cut
GAP: Final = 1
_STYLES: Final = {
    LIVE: "green", RESTING: "dim", DONE: "dim", AWAITED: "dim", TIMED_OUT: "yellow",
    STOPPED: "yellow", EVICTED: "red", REPLACED: "red", FAILED: "red",
}  # fmt: skip


def worker_rows(state: dict[str, Any], width: int) -> Table:
    """Makes the table of the workers.

    Args:
        state: how the run stands.
        width: of the terminal, in columns; what does not fit is left out, and never cut.
    """
    counts_clocks = state.get("bound_unit", CLOCKS) == CLOCKS
    bound = state["bound"] if counts_clocks else None
    rows = [_cells(row, bound, epoch_text(state, row)) for row in state["table"]]
    present = {row["worker"] for row in state["table"]}
    rows += [
        {"worker": Text(str(rank)), "state": Text(AWAITED, _STYLES[AWAITED])}
        for rank in state["missing"] if rank not in present
    ]  # fmt: skip
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP, 0, 0), pad_edge=False, expand=True,
        header_style="dim", border_style="dim",
    )  # fmt: skip
    shown = _columns(rows, width)
    for name in shown:
        if name == "process":
            table.add_column(name, ratio=1, min_width=LEAST_PROCESS, no_wrap=True,
                             overflow="ellipsis")  # fmt: skip
        else:
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*(cells.get(name, Text()) for name in shown))
    return table


def _columns(rows: list[dict[str, Text]], width: int) -> list[str]:
    """Chooses the columns for which there is room."""
    needed = {
        name: max(len(name), *(row[name].cell_len for row in rows if name in row), 0)
        for name in COLUMN_NAMES
    }
    needed["process"] = LEAST_PROCESS
    shown = list(COLUMN_NAMES)
    for name in LEFT_OUT:
        # Two gaps, since a table has one where its box has a line between two columns.
        if sum(needed[other] + 2 * GAP for other in shown) - 2 * GAP <= width:
            break
        shown.remove(name)
    return shown


def _cells(row: dict[str, Any], bound: int | None, epoch: str) -> dict[str, Text]:
    """Writes the row of a worker.

    Args:
        row: of the run's state.
        bound: of the lag; None where there is none, or where it is one of versions.
        epoch: how many it has completed.
    """
    # One that takes no part is ahead of nobody. Under a bound of 0 every lag is at the bound.
    lag = str(row["lag"]) if row["state"] in TAKES_PART else ""
    at_bound = bool(bound) and row["lag"] >= bound
    waiting = row["wait_fraction"]
    return {
        "worker": Text(str(row["worker"])),
        "process": Text(row["name"], "dim"),
        "state": Text(row["state"], _STYLES.get(row["state"], "")),
        "epoch": Text(epoch),
        "step": Text(str(row["step"])),
        "lag": Text(lag, "bold yellow" if at_bound else ""),
        "waiting": Text(waiting_text(waiting),
                        "yellow" if waiting and waiting > MUCH_WAITING else ""),
        "samples/s": Text(f"{row['samples_per_s']:.0f}" if row["samples"] else NONE),
        "loss": Text(NONE if row["loss"] is None else f"{row['loss']:.4f}"),
    }  # fmt: skip


def epoch_text(state: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Writes how many epochs a worker has completed; a dash where it may count none.

    Args:
        state: how the run stands.
        row: of the worker, in it.
    """
    tells = row["epoch"] or state["planned_epochs"] is not None
    return str(row["epoch"]) if tells else NONE


def waiting_text(share: float | None) -> str:
    """Writes a share of waiting; a dash where there was no time yet."""
    return NONE if share is None else percent(share)
