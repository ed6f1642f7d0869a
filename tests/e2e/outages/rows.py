"""docs/when-things-fail.md: its rows, and whether people are told what it says that they see."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
DOCUMENT: Final = ROOT / "docs" / "when-things-fail.md"
LINES: Final = re.compile(r"(\w+): (`[^`]+`(?:, `[^`]+`)*)")
# What stands for something in a line: a number, or one of these words.
PLACES: Final = re.compile(r"\d+(?:\.\d+)?|HOST|PID|PATH|WHY")


@dataclass(frozen=True)
class Row:
    """One way in which a machine goes."""

    happens: str
    seen: dict[str, tuple[str, ...]]  # whose terminal ▸ the lines there
    lost: str
    mend: str
    tests: tuple[str, ...]


def rows() -> list[Row]:
    """All rows of the document's table."""
    found = []
    for line in DOCUMENT.read_text("utf-8").splitlines():
        if not line.startswith("| ") or line.startswith(("| ---", "| what happens")):
            continue
        happens, seen, lost, mend, tests = (cell.strip() for cell in line.strip("|").split(" | "))
        by_terminal = {
            terminal: tuple(re.findall("`([^`]+)`", spans))
            for terminal, spans in LINES.findall(seen)
        }
        found.append(Row(happens, by_terminal, lost, mend, tuple(re.findall("`([^`]+)`", tests))))
    return found


def require_told(happens: str, **seen: Iterable[str]) -> None:
    """Requires that the lines which a row of the document quotes are among these.

    Args:
        happens: the first cell of the row.
        seen: whose terminal ▸ all lines there.
    """
    (row,) = [row for row in rows() if row.happens == happens]
    for terminal, lines in seen.items():
        there = list(lines)
        for quoted in row.seen[terminal]:
            assert any(map(pattern(quoted).search, there)), "\n".join([quoted, "not in:", *there])


def pattern(quoted: str) -> re.Pattern[str]:
    """An expression for a line as the document quotes it."""
    first, *parts = map(re.escape, PLACES.split(quoted))
    places = (r"\d+(?:\.\d+)?" if place[0].isdigit() else ".+?" for place in PLACES.findall(quoted))
    return re.compile(first + "".join(map("".join, zip(places, parts, strict=True))))
