"""docs/when-things-fail.md has a row for each way in which a machine goes, and a test for each row.

The tests compare the lines that the document quotes with what processes print, by `require_told`.
"""

import ast
from pathlib import Path

import pytest

from e2e.outages.rows import Row, pattern, require_told, rows

ROOT = Path(__file__).resolve().parents[2]
WAYS = 15


def function_named(test: str) -> ast.FunctionDef:
    """The test function of ``path::name``."""
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    (found,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    return found


def compared_by(function: ast.FunctionDef) -> set[tuple[str, str]]:
    """The rows, each with a terminal, whose lines this function compares with what was printed."""
    compared = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require_told":
            happens = ast.literal_eval(node.args[0])
            compared |= {(happens, keyword.arg or "") for keyword in node.keywords}
    return compared


def test_there_is_a_row_for_each_way_in_which_a_machine_goes() -> None:
    assert len({row.happens for row in rows()}) == WAYS


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.happens)
def test_each_row_says_what_is_seen_what_is_lost_and_what_to_do(row: Row) -> None:
    assert row.seen
    assert row.lost
    assert row.mend


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.happens)
def test_each_row_has_tests_that_compare_its_lines_with_what_is_printed(row: Row) -> None:
    functions = [function_named(test) for test in row.tests]
    compared = set().union(*(compared_by(function) for function in functions))
    assert {(row.happens, terminal) for terminal in row.seen} <= compared


def test_a_line_that_is_not_printed_is_found() -> None:
    with pytest.raises(AssertionError, match="not in:"):
        require_told("a worker is killed", launch=["worker 2 was stopped"])
    require_told("a worker is killed", launch=["worker 7 was killed; the run goes on without it"])


def test_numbers_and_names_in_a_line_stand_for_any() -> None:
    quoted = pattern("worker 3 (HOST:PID) is back (after 5 s)")
    assert quoted.search("leash server: worker 12 (box.example:77) is back (after 0.25 s)")
    assert not quoted.search("leash server: worker 12 is back (after 0.25 s)")
