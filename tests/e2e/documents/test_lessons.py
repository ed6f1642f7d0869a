"""The three lessons run from beginning to end, and the pages show what they print now.

Each lesson asserts its own figures: a cell that fails ends it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[3]
LESSONS: Final = sorted((ROOT / "docs" / "lessons").glob("*.ipynb"))
RUN: Final = ROOT / "tools" / "lessons"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def code(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: Any) -> list[str]:
    """What the cells print, in words: figures that may depend on a processor are left out."""
    texts = [
        "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return [re.sub(r"[\d.,%e+-]+", "#", re.sub(r" +", " ", text)) for text in texts]


def pictures(notebook: Any) -> Iterator[int]:
    """The cells that draw a picture."""
    for number, cell in enumerate(notebook.cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", ())):
            yield number


def run(path: Path, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "IPYTHONDIR": str(out / "ipython")}
    return subprocess.run(
        [sys.executable, str(RUN), "--out", str(out), str(path)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_shows_what_it_says(path: Path, tmp_path: Path) -> None:
    done = run(path, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ran, shown = read(tmp_path / path.name), read(path)
    assert code(ran) == code(shown)
    assert printed(ran) == printed(shown)
    assert list(pictures(ran)) == list(pictures(shown))
    assert len(list(pictures(shown))) >= 2


def test_there_are_three_lessons_with_questions_that_are_answered() -> None:
    assert len(LESSONS) == 3
    for path in LESSONS:
        text = "\n".join(cell.source for cell in read(path).cells)
        assert "assert " in text
        questions = [int(number) for number in re.findall(r"\*\*Question (\d+)\.\*\*", text)]
        assert questions == list(range(1, len(questions) + 1))
        assert len(questions) >= 6
        opened = text.count("<details><summary>Answer</summary>")
        assert opened == text.count("</details>") == len(questions)


def test_a_lesson_whose_figures_are_wrong_fails(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
        cells=[nbformat.v4.new_code_cell("assert 1 + 1 == 3")]  # type: ignore[no-untyped-call]
    )
    nbformat.write(notebook, tmp_path / "wrong.ipynb")  # type: ignore[no-untyped-call]
    done = run(tmp_path / "wrong.ipynb", tmp_path)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr
