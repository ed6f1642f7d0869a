import json
from pathlib import Path

import pytest

from leash.ps.cli import run
from leash.ps.errors import UsageError
from support.runs import simulate, write_run

SUMMARY = {"ended": "done", "policy": "asp", "bound": None, "workers": 2, "least_workers": 2,
           "test_accuracy": 0.915, "steps": 6, "train_seconds": 65.0}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_runs(folder: Path) -> None:
    events = simulate([lambda _: 0.1], 3, 0)
    options = {"model": "linear", "dataset": "digits"}
    write_run(folder / "runs" / "20260102-030405-asp", events, options, SUMMARY)
    write_run(folder / "runs" / "20260102-030406-asp", events, options)


def test_it_lists_the_runs_of_the_working_directory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(folder)
    assert run(["runs"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["run", "began", "what", "policy", "workers", "ended", "accuracy", "time"]
    assert lines[-1] == [
        "runs/20260102-030405-asp", "2026-01-02", "03:04", "linear", "on", "digits", "asp", "2",
        "done", "91.50", "%", "1:05",
    ]  # fmt: skip


def test_as_json_it_has_all_that_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_runs(folder)
    assert run(["runs", "runs", "--json"]) == 0
    newest, oldest = json.loads(capsys.readouterr().out)
    assert newest["ended"] == "goes on"
    assert oldest["began"].startswith("2026-01-02T03:04:05")
    assert (oldest["run"], oldest["accuracy"], oldest["steps"], oldest["seconds"]) == (
        "runs/20260102-030405-asp", 0.915, 6, 65.0
    )  # fmt: skip


def test_a_folder_without_runs_says_so_and_one_that_is_not_there_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert run(["runs", "empty"]) == 0
    assert capsys.readouterr().out == "no runs in empty\n"
    with pytest.raises(UsageError, match="runs: there is no such folder"):
        run(["runs"])


def test_a_report_without_a_run_is_of_the_newest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(folder)
    assert run(["report"]) == 0
    assert "runs/20260102-030406-asp/report.html" in capsys.readouterr().out
    assert (folder / "runs" / "20260102-030406-asp" / "report.html").is_file()
