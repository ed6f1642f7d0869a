"""Gives runs side by side their labels and colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.settings import NOT_SET, differing_settings
from leash.ps.report.pictures.style import LINE_STYLES, RUN_COLORS

SEED: Final = "seed"


@dataclass(frozen=True)
class Shown:
    """A run, with the colour and the line that it has in every figure."""

    run: Run
    label: str  # the same for runs that differ in their seed alone
    color: str
    line: Any  # a line style of matplotlib


def line_up(runs: Sequence[Run]) -> list[Shown]:
    """Gives each run a label, a colour and a line; runs that differ in the seed share them."""
    variants = _variants(runs)
    labels = list(dict.fromkeys(variants))
    return [
        Shown(
            run, label, RUN_COLORS[labels.index(label) % len(RUN_COLORS)],
            LINE_STYLES[labels.index(label) // len(RUN_COLORS) % len(LINE_STYLES)],
        )
        for run, label in zip(runs, variants, strict=True)
    ]  # fmt: skip


def _variants(runs: Sequence[Run]) -> list[str]:
    """Labels for the runs: their names, or their settings if some differ in the seed alone."""
    settings = {k: v for k, v in differing_settings(runs).items() if k != SEED}
    keys = [tuple(values[i] for values in settings.values()) for i in range(len(runs))]
    if len(set(keys)) == len(runs) or len(set(keys)) == 1:
        return [run.name for run in runs]
    names = list(settings)
    return [
        ", ".join(_said(name, value) for name, value in zip(names, key, strict=True)
                  if value != NOT_SET)
        for key in keys
    ]  # fmt: skip


def _said(name: str, value: str) -> str:
    return value if name == "policy" else f"{name.replace('_', ' ')} {value}"
