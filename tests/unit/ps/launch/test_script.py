from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.launch.script import LogTail, words_for_script
from leash.ps.options.launch import LaunchOptions


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train.py --lr 0.1 --page --verbose --workers=3", ["--lr", "--page", "--workers"]),
        ("train.py --batch-size 8 lr", []),  # a script decides it in any case
        ("--workers=3 --lr 0.1 train.py", []),
        ("--dataset=digits", []),
    ],
)
def test_options_of_a_launch_behind_the_scripts_name_are_told(words: str, told: list[str]) -> None:
    _, options = parse(["launch", *words.split()])
    assert isinstance(options, LaunchOptions)
    assert words_for_script(options) == told


def test_a_line_is_shown_once_it_is_complete(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tail = LogTail(log)
    assert list(tail.new_lines(ended=False)) == []
    log.write_bytes(b"one\ntw")
    assert list(tail.new_lines(ended=False)) == ["one"]
    assert list(tail.new_lines(ended=False)) == []
    with log.open("ab") as output:
        output.write(b"o\nthree")
    assert list(tail.new_lines(ended=False)) == ["two"]
    assert list(tail.new_lines(ended=True)) == ["three"]
    assert list(tail.new_lines(ended=True)) == []


def test_of_a_line_that_is_written_over_itself_the_last_text_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\r 10 %\r 100 %\nplain\r\n\n\xff\n")
    assert list(LogTail(log).new_lines(ended=True)) == [" 100 %", "plain", "", "\ufffd"]
