"""What a notebook shows of a run: its table, and its report. As text, they are for terminals."""

import html
import io
import os
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from leash.ps.commands.run_table import run_table

SHOWN_WIDTH: Final = 100  # columns
REPORT_HEIGHT_PX: Final = 700
# Colours stay those of the notebook, so that a dark one stays dark.
_HTML: Final = '<pre style="line-height:1.3;font-family:monospace;overflow-x:auto">{code}</pre>'


class ShownTable:
    """The live table of a run, as it was when asked for."""

    def __init__(self, state: dict[str, Any]) -> None:
        """Keeps what it shows.

        Args:
            state: of the run, as `LaunchedRun.status` gives it.
        """
        self.state: Final = state

    def __repr__(self) -> str:
        return self._drawn().export_text().rstrip()

    def _repr_html_(self) -> str:
        return self._drawn().export_html(inline_styles=True, code_format=_HTML)

    def _drawn(self) -> Console:
        console = Console(width=SHOWN_WIDTH, record=True, file=io.StringIO(), force_jupyter=False)
        console.print(run_table(self.state))
        return console


class RunReport:
    """The page that `leash report` has written.

    Attributes:
        path: of the page, which needs no other file.
    """

    def __init__(self, path: Path) -> None:
        """Keeps where it is.

        Args:
            path: of the page.
        """
        self.path: Final = path

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"report: {self.path}"

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text("utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="{REPORT_HEIGHT_PX}"></iframe>'
