"""Lines that stay: how they are folded on a terminal."""

import io

import pytest
from rich.console import Console

from leash.ps.commands.printing import folded, print_line

WAITING = (
    "waiting         73 % of the workers' time, from a push to its answer (worker 1: 96 %, "
    "worker 2: 96 %)"
)


def printed(line: str, width: int, *, is_terminal: bool = True) -> list[str]:
    out = io.StringIO()
    print_line(Console(file=out, width=width, force_terminal=is_terminal), line)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 72, 80, 120])
def test_a_figure_goes_on_below_itself_and_no_word_is_broken(width: int) -> None:
    first, *rest = printed(WAITING, width)
    assert all(len(line) <= width for line in (first, *rest))
    assert all(line.startswith(" " * 16) and line[16] != " " for line in rest)
    assert " ".join(" ".join((first, *rest)).split()) == " ".join(WAITING.split())


def test_a_narrow_terminal_has_a_narrow_indent() -> None:
    assert all(line.startswith("  ") and line[2] != " " for line in printed(WAITING, 30)[1:])


def test_without_a_terminal_a_line_is_whole() -> None:
    assert printed(WAITING, 40, is_terminal=False) == [WAITING]


@pytest.mark.parametrize("name", ["to go on", "run directory", "report"])
def test_what_people_copy_is_never_broken(name: str) -> None:
    line = f"{name:16}" + "leash launch --config a/rather/long/path --workers 4 --fresh"
    assert printed(line, 40) == [line]


def test_a_word_that_is_wider_than_the_terminal_stays_whole() -> None:
    assert folded("see a/very/long/path/of/a/file.svg", 20) == "see\na/very/long/path/of/a/file.svg"


def test_a_sentence_has_no_indent() -> None:
    assert folded("one two three four", 9) == "one two\nthree\nfour"
