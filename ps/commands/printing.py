"""Prints lines that stay: folded between words on a terminal, whole where there is none."""

import re
import textwrap
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.text import Text

NAME_AND_GAP: Final = re.compile(r"\S.*?\s{2,}(?=\S)")  # of a figure, before it
NARROW_INDENT: Final = 2
LEAST_BESIDE: Final = 24  # columns beside the indent; where there are fewer, the indent is narrow
# People copy what stands behind these names, so that the terminal alone may break it.
COPIED: Final = ("to go on", "run directory", "report", "results", "picture", "both runs",
                 "in detail")  # fmt: skip


def print_line(console: Console, line: str, style: str = "") -> None:
    """Prints a line. One such as ``waiting         73 %`` goes on below its figure.

    Args:
        console: where to.
        line: what to print.
        style: of the whole line, as rich takes it.
    """
    named = NAME_AND_GAP.match(line)
    is_copied = named is not None and named[0].rstrip() in COPIED
    if console.is_terminal and not is_copied:
        line = folded(line, console.width)
    console.print(Text(line, style), soft_wrap=True)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Prints lines, each as `print_line` does."""
    for line in lines:
        print_line(console, line)


def folded(line: str, width: int) -> str:
    """Breaks a line between words, so that no part of it is wider than `width` columns.

    A word that is wider stays whole.
    """
    named = NAME_AND_GAP.match(line)
    indent = named.end() if named else 0
    if width - indent < LEAST_BESIDE:
        indent = NARROW_INDENT if named else 0
    return textwrap.fill(
        line, max(width, indent + 1), subsequent_indent=" " * indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
