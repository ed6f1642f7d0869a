"""The options of `leash report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from leash.ps.errors import UsageError
from leash.ps.options.base import Options, arguments, option


@dataclass(frozen=True, kw_only=True)
class ReportGroup(Options):
    """The options of which runs to show, and where."""

    title: ClassVar[str] = "what to show, and where"

    runs: tuple[str, ...] = arguments(
        "run directories, such as runs/NAME; several stand side by side; default: the newest run "
        "in ./runs",
        is_path=True,
    )
    out: str | None = option(
        None, "write the page here: a folder, or a file that ends in .html; default: the run's "
        "folder, or with several runs a new one below ./reports",
        metavar="DIR|FILE.html", is_path=True,
    )  # fmt: skip
    open: bool = option(False, "show the page in a browser")

    def check(self) -> None:
        super().check()
        if self.out is not None and Path(self.out).suffix != ".html" and Path(self.out).is_file():
            raise UsageError(f"--out {self.out}: is a file; give a folder, or a name in .html")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(ReportGroup):
    """Show runs as one page: what they reached, where their time went, and why."""
