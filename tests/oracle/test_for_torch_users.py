"""docs/for-torch-users.md tells what the habits show."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from oracle.body import Habit
from oracle.cases import all_habits
from oracle.not_yet import NOT_YET

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "for-torch-users.md"
NOT_YET_HEADING = "## Not yet"


@dataclass(frozen=True)
class Row:
    """A line of a table: what people do, what happens, what to do instead, and its tests."""

    does: str
    happens: str
    instead: str
    tests: tuple[str, ...]

    @property
    def habits(self) -> list[Habit]:
        return [all_habits()[test] for test in self.tests if "/" not in test]


def rows() -> list[Row]:
    found = []
    for line in DOCUMENT.read_text("utf-8").splitlines():
        if not line.startswith("| ") or line.startswith(("| ---", "| what you do")):
            continue
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 3:  # an empty cell has no space around it
            cells.insert(2, "")
        does, happens, instead, tests = cells
        found.append(Row(does, happens, instead.strip("| "), tuple(re.findall("`([^`]+)`", tests))))
    return found


def test_every_row_has_tests_that_exist() -> None:
    for row in rows():
        assert row.tests, row.does
        for test in row.tests:
            path, _, function = test.partition("::")
            if "/" not in test:
                assert test in all_habits()
            else:
                assert f"def {function}" in (ROOT / path).read_text("utf-8"), test


def test_every_habit_is_in_one_row() -> None:
    named = Counter(test for row in rows() for test in row.tests if "/" not in test)
    assert named == Counter(all_habits().keys())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.does)
def test_a_row_says_error_where_its_habits_end_with_one(row: Row) -> None:
    for habit in row.habits:
        if habit.refusal is not None:
            assert row.happens.startswith("an error"), habit.name
        elif habit.refusal_with_overlap is not None:
            assert "with `overlap=True` an error" in row.happens, habit.name
        elif habit.told_with_overlap is not None:
            assert "with `overlap=True` a line says so" in row.happens, habit.name
        elif habit.may_be_refused:
            assert "or an error" in row.happens, habit.name
        else:
            assert "an error" not in row.happens.replace("or an error", ""), habit.name


def test_whoever_meets_an_error_is_told_what_to_do_instead() -> None:
    assert [row.does for row in rows() if "an error" in row.happens and not row.instead] == []


def test_the_document_says_what_is_not_yet() -> None:
    told = DOCUMENT.read_text("utf-8").partition(NOT_YET_HEADING)[2]
    missing = {missing.what for missing in NOT_YET.values()}
    assert set(re.findall(r"^- (.*)$", told, re.MULTILINE)) == missing
    assert bool(missing) == bool(told)  # the heading goes with the last of them
