"""The test accuracies of the newest epochs, and a small curve of them."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from leash.ps.words import accuracy_text

SHOWN_EPOCHS: Final = 8
LABEL: Final = "test accuracy %"
# What the curve's height stands for at least, from 0 to 1: a point of accuracy is never a cliff.
LEAST_SPAN: Final = 0.1
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = 2


def accuracy_rows(by_epoch: Sequence[float | None], width: int) -> Table:
    """Makes the rows.

    Args:
        by_epoch: from 0 to 1; None where an epoch has none.
        width: of the terminal, in columns; older epochs are left out where it is too narrow.
    """
    figures = ["-" if a is None else accuracy_text(a).removesuffix(" %") for a in by_epoch]
    widest = max(map(len, figures)) + _GAP
    count = max(1, min(SHOWN_EPOCHS, (width - len(LABEL)) // widest))
    first = max(0, len(by_epoch) - count)
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True)
    for _ in figures[first:]:
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row("epoch", *(str(n) for n in range(first + 1, len(by_epoch) + 1)), style="dim")
    grid.add_row(LABEL, *figures[first:])
    grid.add_row("", *sparks(by_epoch)[first:], style="green")
    return grid


def sparks(values: Sequence[float | None]) -> list[str]:
    """Draws values from 0 to 1, a letter for each, on the scale of all of them.

    The scale goes from the lowest to the highest, but over `LEAST_SPAN` at least.
    """
    known = [value for value in values if value is not None]
    highest = max(known, default=1.0)
    span = max(highest - min(known, default=0.0), LEAST_SPAN)
    top = len(_SPARKS) - 1
    return [
        " " if value is None else _SPARKS[round(top * (1 - (highest - value) / span))]
        for value in values
    ]
