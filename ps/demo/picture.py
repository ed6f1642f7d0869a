"""Draws both sides of the demo. It needs matplotlib, and is imported when something is drawn."""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from leash.ps.demo.outcome import SideOutcome
from leash.ps.demo.sides import TARGET_ACCURACY
from leash.ps.demo.verdict import compared
from leash.ps.report.pictures.style import BLUE, GREY, INK, MUTED, ORANGE, RED, STYLE

SIZE_IN: Final = (7.6, 3.0)
SIDE_NAMES: Final = ("in lockstep", "on the leash")
COLORS_OF_SIDES: Final = (RED, BLUE)
BAR_HEIGHT: Final = 0.72  # its height, of the distance between two


def draw_sides(title: str, lockstep: SideOutcome, leash: SideOutcome, path: Path) -> None:
    """Draws test accuracy over time, and who waited, into a file in the format of its ending.

    Args:
        title: says what was done.
        lockstep: the side where everybody waits for all others.
        leash: the side where nobody does.
        path: of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        accuracy, waiting = figure.subplots(1, 2, width_ratios=[1.4, 1])
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK, fontweight="bold")
        _draw_accuracy(accuracy, (lockstep, leash))
        _draw_waiting(waiting, (lockstep, leash))
        metadata: Any = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)


def _draw_accuracy(axis: Axes, sides: tuple[SideOutcome, SideOutcome]) -> None:
    """Draws the curves, and when each came to the target."""
    axis.axhline(TARGET_ACCURACY, color=GREY, linewidth=1, linestyle=(0, (4, 2)))
    lowest = min((share for side in sides for _, share in side.accuracies), default=0.0)
    bottom = lowest - 0.25 * (1 - lowest)  # room for the times
    for side, color, name in zip(sides, COLORS_OF_SIDES, SIDE_NAMES, strict=True):
        axis.plot([s for s, _ in side.accuracies], [share for _, share in side.accuracies], "o-",
                  color=color, linewidth=2)  # fmt: skip
        if side.accuracies:
            towards = "right" if side is sides[0] else "left"
            axis.annotate(name, side.accuracies[-1], (0, 7), textcoords="offset points", ha=towards,
                          color=color, fontweight="bold")  # fmt: skip
        _mark_target(axis, side, color, bottom)
    axis.set(xlabel="seconds of training", xlim=(0, 1.03 * max(side.seconds for side in sides)),
             ylim=(bottom, 1))  # fmt: skip
    axis.set_title("test accuracy", loc="left", fontsize=9, color=MUTED)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _compare_times(axis, sides, bottom + 0.06 * (1 - bottom))


def _mark_target(axis: Axes, side: SideOutcome, color: str, bottom: float) -> None:
    """Draws a line down from where a curve is first known to be at the target."""
    reached_s = side.seconds_to(TARGET_ACCURACY)
    if reached_s is not None:
        accuracy = dict(side.accuracies)[reached_s]
        axis.plot([reached_s] * 2, [bottom, accuracy], color=color, linewidth=1, linestyle=":")
        axis.annotate(f"{reached_s:.1f} s", (reached_s, TARGET_ACCURACY), (4, -13), color=color,
                      textcoords="offset points", fontweight="bold")  # fmt: skip


def _compare_times(axis: Axes, sides: tuple[SideOutcome, SideOutcome], y: float) -> None:
    """Draws an arrow from one time to the other, and by how many times it is the shorter."""
    lockstep_s, leash_s = (side.seconds_to(TARGET_ACCURACY) for side in sides)
    if lockstep_s is None or leash_s is None:
        return
    arrow = {"arrowstyle": "->", "color": INK, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (leash_s, y), (lockstep_s, y), arrowprops=arrow)
    axis.annotate(
        compared(lockstep_s / leash_s),
        ((lockstep_s + leash_s) / 2, y), (0, 4), textcoords="offset points", ha="center", color=INK,
    )  # fmt: skip


def _draw_waiting(axis: Axes, sides: tuple[SideOutcome, SideOutcome]) -> None:
    """Draws for which share of its time each machine worked and waited, a bar for each."""
    at, names, middles = 0.0, [], []
    for side, name, color in zip(sides, SIDE_NAMES, COLORS_OF_SIDES, strict=True):
        axis.annotate(name, (0, at), color=color, fontweight="bold", va="center")
        for rank, share in enumerate(side.waits, start=1):
            at += 1
            waited = share or 0.0
            axis.barh(at, 1 - waited, height=BAR_HEIGHT, color=BLUE)
            axis.barh(at, waited, left=1 - waited, height=BAR_HEIGHT, color=ORANGE)
            names.append(f"machine {rank}")
            middles.append(at)
        at += 1.2
    axis.set(xlim=(0, 1), ylim=(at - 0.6, -0.6), yticks=middles)
    axis.set_yticklabels(names, fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.set_title("each one's time", loc="left", fontsize=9, color=MUTED)
    keys = [Patch(color=BLUE, label="works"), Patch(color=ORANGE, label="waits")]
    axis.legend(handles=keys, loc="lower right", bbox_to_anchor=(1.02, 0.985), ncols=2, fontsize=8,
                handlelength=1, columnspacing=1, borderpad=0)  # fmt: skip
