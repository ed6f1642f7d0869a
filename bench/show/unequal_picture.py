"""Draws leash.bench.unequal: bars of the seconds to the same accuracy, and of steps a second."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from leash.bench.harness.rows import Row
from leash.ps.report.pictures.style import BLACK, BLUE, GREEN, RED

BAR_COLORS: Final = {"ddp": BLACK, "bsp": RED, "ssp": BLUE, "asp": GREEN}


def unequal(rows: Sequence[Row]) -> Any:
    """Draws a panel for either figure, with a group of bars for each slowness."""
    figure, (target, speed) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.965))
    share = f"{rows[0].target:.0%} test accuracy" if rows[0].target else "the target"
    _bars(target, rows, lambda row: row.to_target_s, f"seconds to {share}")
    _bars(speed, rows, lambda row: row.per_s, "steps/s of all four workers")
    return figure


def _bars(
    axis: Axes, rows: Sequence[Row], figure_of: Callable[[Row], float | None], title: str
) -> None:
    cases = list(dict.fromkeys(row.case for row in rows))
    for case in cases:
        of_case = [row for row in rows if row.case == case]
        for number, row in enumerate(of_case):
            at, value = cases.index(case) * (len(of_case) + 1) + number, figure_of(row)
            name = row.policy or row.system
            axis.bar(at, value or 0.0, color=BAR_COLORS[name], width=0.8)
            text = "never" if value is None else f"{value:.3g}"
            axis.annotate(f"{text}\n{name}", (at, value or 0.0), (0, 2), ha="center", fontsize=7.5,
                          textcoords="offset points")  # fmt: skip
    groups = [(len(rows) // len(cases) - 1) / 2 + i * (len(rows) // len(cases) + 1)
              for i in range(len(cases))]  # fmt: skip
    axis.set_xticks(groups, [case.rpartition(", ")[2] for case in cases])
    axis.set_title(title, loc="left", fontsize=9.5)
    axis.margins(y=0.18)
    axis.grid(axis="x", visible=False)
