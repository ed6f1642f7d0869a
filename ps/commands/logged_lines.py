"""Writes the newest numbers that the workers' loops have logged, for the table of a run."""

from typing import Any, Final

SHOWN_NAMES: Final = 6
NAMED_WORKERS: Final = 8


def logged_lines(state: dict[str, Any]) -> list[str]:
    """A line for each name, such as ``logged loss: 0.31 by worker 1, 0.29 by 2``.

    Args:
        state: of the run; docs/wire-format.md lists its keys.
    """
    by_name: dict[str, list[str]] = {}
    for row in state["table"]:
        for name, value in row.get("logged", {}).items():
            whose = "" if name in by_name else "worker "
            by_name.setdefault(name, []).append(f"{value:.4g} by {whose}{row['worker']}")
    lines = [f"logged {name}: {_first(told)}" for name, told in by_name.items()]
    more = len(lines) - SHOWN_NAMES
    return lines if more <= 0 else [*lines[:SHOWN_NAMES], f"logged {more} more names"]


def _first(told: list[str]) -> str:
    more = len(told) - NAMED_WORKERS
    shown = ", ".join(told[:NAMED_WORKERS])
    return shown if more <= 0 else f"{shown}, and {more} more"
