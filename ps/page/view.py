"""The view of a run: all that its page shows, as a dict that JSON takes."""

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from leash.ps.page.bars import lag_view, paces_view, shares_view, staleness_view
from leash.ps.page.curves import accuracy_views, crew_view, logged_views, loss_views, speed_view
from leash.ps.page.keys import View
from leash.ps.page.lanes import closer_view, lanes_view
from leash.ps.report.analysis.run import Run

REACHED: Final = "What was reached"
TIME: Final = "Who worked, and who waited"
APART: Final = "How far apart the workers were"
PAGE_PACKAGE: Final = "leash.ps.page"
# What draws a view, in the order in which a page has them.
SCRIPTS: Final = ("uPlot.min.js", "page.js", "curves.js", "bars.js", "lanes.js")


def sections(run: Run) -> list[View]:
    """All pictures of a run that has ended, below their titles."""
    return [
        section(TIME, [lanes_view(run), closer_view(run), crew_view(run), speed_view(run),
                       shares_view(run), paces_view(run)]),
        section(REACHED, [*accuracy_views(run), *loss_views(run), *logged_views(run)]),
        section(APART, [staleness_view(run), lag_view(run)]),
    ]  # fmt: skip


def section(title: str, pictures: Iterable[View | None]) -> View:
    """A part of the page: those of its pictures for which there is something to draw."""
    return {"title": title, "pictures": [p for p in pictures if p is not None]}


def asset(name: str) -> str:
    """The text of a file of the page, such as page.css."""
    return files(PAGE_PACKAGE).joinpath("assets", name).read_text("utf-8")


def as_script_data(view: View) -> str:
    """JSON that may stand in a <script> element: nothing in it ends that."""
    return json.dumps(view, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
