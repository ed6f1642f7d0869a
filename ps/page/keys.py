"""The legends of the page's pictures. A colour is a CSS variable: assets/page.css has them all."""

from collections.abc import Sequence
from typing import Any, Final, TypedDict

from leash.ps.report.pictures.lineup import Shown
from leash.ps.report.pictures.style import PAGE_VARIABLES

DASH_PX: Final = 2.5  # a dash of pictures/style.py is this much for each width of the line

View = dict[str, Any]  # what JSON takes


class ViewKey(TypedDict):
    """An entry of a legend: a line with these dashes if it has some, or a patch without."""

    label: str
    color: str
    dash: list[float] | None  # lengths in pixels; [] is a whole line


def patch(label: str, color: str) -> ViewKey:
    """An entry that is an area; its colour is one of pictures/style.py."""
    return ViewKey(label=label, color=PAGE_VARIABLES[color], dash=None)


def line(label: str, color: str, dash: Sequence[float] = ()) -> ViewKey:
    """An entry that is a line."""
    return ViewKey(label=label, color=PAGE_VARIABLES[color], dash=list(dash))


def run_key(shown: Shown) -> ViewKey:
    """The line that a run has in every picture; runs that differ in the seed alone share it."""
    dashes = () if isinstance(shown.line, str) else shown.line[1]
    return line(shown.label, shown.color, [DASH_PX * dash for dash in dashes])
