"""The legends of the page's pictures. A colour is a CSS variable: assets/page.css has them all."""

from typing import Any, TypedDict

from leash.ps.report.pictures.style import PAGE_VARIABLES

View = dict[str, Any]  # what JSON takes


class ViewKey(TypedDict):
    """An entry of a legend: a line with these dashes if it has some, or a patch without."""

    label: str
    color: str
    dash: list[float] | None  # lengths in pixels; [] is a whole line


def patch(label: str, color: str) -> ViewKey:
    """An entry that is an area; its colour is one of pictures/style.py."""
    return ViewKey(label=label, color=PAGE_VARIABLES[color], dash=None)


def line(label: str, color: str) -> ViewKey:
    """An entry that is a line."""
    return ViewKey(label=label, color=PAGE_VARIABLES[color], dash=[])
