"""Turns figures into the PNG files that lie beside a page.

This module and those that draw with it need matplotlib; they are imported when a report is written.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from leash.ps.report.analysis.run import Change
from leash.ps.report.pictures.style import INK, MUTED, REPORT_STYLE

NARROW_IN: Final = 5.16
WIDE_IN: Final = 9.2


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a line if it has a style, otherwise a patch."""

    label: str
    color: str
    line: Any = None


@dataclass(frozen=True)
class Picture:
    """A figure of the report."""

    name: str  # the name of its PNG file
    title: str
    make: Callable[[float], Figure]  # draws it; takes its width in inches
    keys: tuple[Key, ...] = ()
    is_wide: bool = False


@contextmanager
def report_style() -> Iterator[None]:
    """Draws in a report's style within this context."""
    with mpl.rc_context(REPORT_STYLE), warnings.catch_warnings():
        # A name may have glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(
    width_in: float, height_in: float, rows: int = 1, **settings: Any
) -> tuple[Figure, list[Axes]]:
    """Makes an empty figure of this width."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, **settings)
    return figure, list(axes[:, 0])


def write_png(picture: Picture, path: Path) -> None:
    """Draws the figure with title and legend, so that it can stand alone."""
    figure = picture.make(WIDE_IN if picture.is_wide else NARROW_IN)
    figure.suptitle(picture.title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    if picture.keys:
        columns = 2 if max(len(key.label) for key in picture.keys) > 24 else 4
        figure.legend(handles=[_handle(key) for key in picture.keys], loc="outside lower center",
                      ncols=min(columns, len(picture.keys)), labelcolor=INK)  # fmt: skip
    figure.savefig(path, format="png", facecolor="white", metadata={"Software": None})


def _handle(key: Key) -> Any:
    if key.line is None:
        return Patch(color=key.color, label=key.label)
    return Line2D([], [], color=key.color, linestyle=key.line, linewidth=2, label=key.label)


# Axes.


def time_unit(longest_s: float) -> tuple[float, str]:
    """The unit of time that suits a run of this length: its seconds, and its name."""
    if longest_s > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if longest_s > 1200 else (1.0, "s")


def time_axis(axis: Axes, longest_s: float) -> None:
    """Has the x axis show the time since training began, in a fitting unit."""
    factor, unit = time_unit(longest_s)
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, longest_s / factor)
    axis.set_xticks([float(t) * factor for t in ticks if 0 <= t * factor <= 1.001 * longest_s])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / factor:g}"))
    axis.set_xlabel(f"time, {unit}")


def count_axis(axis: Axes, label: str) -> None:
    """Has the x axis show counts."""
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axis.set_xlabel(label)


def _short(x: float) -> str:
    for limit, letter in ((1e6, "M"), (1e4, "k")):
        if abs(x) >= limit:
            return f"{x / (1e3 if letter == 'k' else limit):g}{letter}"
    return f"{x:g}"


def mark_changes(axis: Axes, changes: Sequence[Change]) -> None:
    """Draws vertical lines where the policy changed."""
    for change in changes:
        bound = f" {change.bound}" if change.bound else ""
        axis.axvline(change.t, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
        axis.annotate(f"{change.policy}{bound}", (change.t, 1), (3, -1), color=MUTED, fontsize=7.5,
                      xycoords=("data", "axes fraction"), textcoords="offset points",
                      va="top")  # fmt: skip
