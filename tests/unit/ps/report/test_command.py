from pathlib import Path

import pytest

from leash.ps.cli import parse, run
from leash.ps.errors import UsageError
from leash.ps.options.base import to_argv
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.parser import options_from, parser_for
from leash.ps.report import command
from leash.ps.report.options import ReportOptions
from support.runs import simulate, write_run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Path], Path]]:
    """What the command would have written; drawing has tests of its own."""
    asked: list[tuple[list[Path], Path]] = []

    def note(runs: list[Path], out: Path) -> Path:
        asked.append((runs, out))
        return out

    monkeypatch.setattr(command, "write_report", note)
    return asked


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["runs/a"], "runs/a"),
        (["runs/a", "--out=elsewhere"], "elsewhere"),
        (["runs/a", "runs/b", "--out", "both.html"], "both.html"),
    ],
)
def test_the_page_goes_where_it_is_told_or_into_the_run(
    quick: list[tuple[list[Path], Path]], words: list[str], place: str
) -> None:
    assert run(["report", *words]) == 0
    assert quick == [([Path(w) for w in words if w.startswith("runs")], Path(place))]


def test_several_runs_get_a_folder_of_their_own(
    quick: list[tuple[list[Path], Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(["report", "a", "b"])
    ((_, first),) = quick
    assert first.parent == Path("reports")
    first.mkdir(parents=True)
    monkeypatch.setattr("time.strftime", lambda _: first.name)
    run(["report", "a", "b"])
    assert quick[1][1] == first.with_name(first.name + "-2")


def test_settings_come_back_from_their_own_command_line() -> None:
    options = ReportOptions(runs=("a", "b c"), out="d", open=True)
    assert parse(["report", *to_argv(options)]) == ("report", options)


def test_the_launcher_has_a_switch_for_it() -> None:
    parsed = parser_for("leash launch", LaunchOptions).parse_args(["--report"])
    assert options_from(parsed, LaunchOptions).report is True


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no run in runs: give a run directory: leash report runs/NAME"),
        (["nowhere"], "nowhere: holds no run: expected a run directory"),
        (["run", "--out=file"], "--out file: is a file"),
        (["run", "--out=file/below"], "cannot write the report there"),
        (["run", "--form"], "unknown option --form"),
    ],
)
def test_a_wrong_argument_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", simulate([lambda _: 0.1], 3, 0))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=says):
        run(["report", *words])


def test_without_matplotlib_one_line_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leash.ps.report.writing.is_installed", lambda name: name != "matplotlib")
    wanted = r"needs matplotlib, .*: pip install 'leash\[report\]'"
    with pytest.raises(UsageError, match=wanted):
        run(["report", str(write_run(tmp_path / "run", simulate([lambda _: 0.1], 3, 0)))])
    with pytest.raises(UsageError, match=wanted):
        run(["launch", "--dataset=digits", "--report", f"--run-dir={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()
