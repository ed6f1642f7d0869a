"""The `leash report` command: writes the page, and shows it if asked to."""

import time
import webbrowser
from pathlib import Path
from typing import Final

from leash.ps.report.options import ReportOptions
from leash.ps.report.writing import require_matplotlib, write_report
from leash.ps.runs.listing import newest_run

REPORTS: Final = "reports"


def run(options: ReportOptions) -> int:
    """Writes the page, says where it is, and shows it if asked to. Returns the exit status."""
    require_matplotlib()
    runs = [Path(run) for run in options.runs] or [newest_run("report")]
    page = write_report(runs, _place(runs, options.out))
    print(f"report          {page}")
    if options.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def _place(runs: list[Path], out: str | None) -> Path:
    """The page's place: as given, in the run's own folder, or in a new one for several runs."""
    if out is not None:
        return Path(out)
    if len(runs) == 1:
        return runs[0]
    stem = time.strftime("%Y%m%d-%H%M%S")
    taken = (Path(REPORTS, stem if n == 1 else f"{stem}-{n}") for n in range(1, 1000))
    return next(path for path in taken if not path.exists())
