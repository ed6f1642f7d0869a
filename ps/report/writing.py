"""Writes the report of runs: one page, and PNG files beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leash._extras import install_command, is_installed
from leash.ps.errors import UsageError
from leash.ps.report.analysis.reading import read_runs
from leash.ps.runs.rundir import write_atomically

if TYPE_CHECKING:
    from leash.ps.report.pictures.drawing import Picture
    from leash.ps.report.pictures.lineup import Shown


def require_matplotlib() -> None:
    """Raises UsageError, which says what to install, if matplotlib is missing."""
    if not is_installed("matplotlib"):
        raise UsageError(
            "a report needs matplotlib, which is not installed: " + install_command("matplotlib")
        )


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes the report of these run directories; returns the page's path.

    Args:
        runs: one, or several to stand side by side. Those that differ in the seed alone share a
            colour.
        out: the page, if it ends in .html; otherwise a folder for report.html. The PNG files go
            to a folder beside the page, with its name less the ending.

    Raises:
        UsageError: a folder is no run's, `out` cannot be written, or matplotlib is missing.
    """
    require_matplotlib()
    read = read_runs(runs)
    from leash.ps.report.analysis.diagnosis import diagnose
    from leash.ps.report.page import page_of, page_of_several
    from leash.ps.report.pictures.drawing import report_style, write_png
    from leash.ps.report.pictures.lineup import line_up

    file = out if out.suffix == ".html" else out / "report.html"
    pictures = file.with_suffix("")
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        shown = line_up(read)
        diagnoses = [diagnose(run) for run in read]
        if len(read) == 1:
            html = page_of(read[0], diagnoses[0])
        else:
            html = page_of_several(shown, diagnoses)
        with report_style():
            for picture in _pictures(shown):
                write_png(picture, pictures / f"{picture.name}.png")
        write_atomically(file, html)
    except OSError as error:
        raise UsageError(f"{file}: cannot write the report there: {error}") from error
    return file


def _pictures(shown: "Sequence[Shown]") -> "list[Picture]":
    from leash.ps.report.pictures import bars
    from leash.ps.report.pictures.curves import crew_picture, curve_pictures, speed_picture

    pictures = [speed_picture(shown), bars.share_picture(shown), bars.staleness_picture(shown),
                bars.lag_picture(shown)]  # fmt: skip
    if len(shown) == 1:
        pictures += [crew_picture(shown[0].run), bars.pace_picture(shown[0].run)]
    return [*curve_pictures(shown), *_timelines(shown), *_drawn(pictures)]


def _timelines(shown: "Sequence[Shown]") -> "list[Picture]":
    from leash.ps.report.pictures.timeline import (
        closer_picture,
        timeline_picture,
        timeline_pictures,
    )

    if len(shown) > 1:
        return timeline_pictures([s.run for s in shown])
    return _drawn([timeline_picture(shown[0].run), closer_picture(shown[0].run)])


def _drawn(pictures: "Iterable[Picture | None]") -> "list[Picture]":
    return [picture for picture in pictures if picture is not None]
