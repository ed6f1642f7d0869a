"""A run directory is made, checked for writing, and says how to go on from it."""

import json
import os
import shlex
import tempfile
from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.runs.rundir import RunDir


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(UsageError, match=r"^--run-dir .*: cannot write there: Permission denied; "):
        RunDir(tmp_path)


def test_the_check_leaves_nothing_behind(tmp_path: Path) -> None:
    RunDir(tmp_path / "run")
    assert os.listdir(tmp_path / "run") == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="cannot make this folder: File exists; take another"):
        RunDir(tmp_path / "run")


@pytest.mark.parametrize("name", ["run", "my run", "it's"])
@pytest.mark.parametrize(
    ("command", "options"),
    [("launch", LaunchOptions(dataset="digits", workers=3)), ("server", ServerOptions(workers=3))],
)
def test_the_newest_checkpoint_and_the_settings_make_the_line_that_goes_on(
    tmp_path: Path, name: str, command: str, options: LaunchOptions | ServerOptions
) -> None:
    run = RunDir(tmp_path / name)
    run.write_config(options)
    assert run.continuing_command(command) is None
    for age, checkpoint in enumerate(("epoch-10", "final", "epoch-9")):
        run.checkpoint(checkpoint).parent.mkdir(exist_ok=True)
        run.checkpoint(checkpoint).write_bytes(b"")
        os.utime(run.checkpoint(checkpoint), (1000 - age, 1000 - age))
    line = run.continuing_command(command)
    assert line is not None
    program, *words = shlex.split(line)
    assert program == "leash"
    parsed, again = parse(words)
    assert parsed == command
    assert isinstance(again, type(options))
    assert again.resume == str(run.checkpoint("epoch-10"))
    assert again.workers == 3


def test_a_folder_that_is_made_is_for_its_owner_alone_and_one_that_is_there_stays(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    before = mine.stat().st_mode
    assert RunDir(mine).path.stat().st_mode == before
    assert RunDir(tmp_path / "runs" / "new").path.stat().st_mode & 0o777 == 0o700


def left(folder: Path, ended: str) -> RunDir:
    """A folder with a run that has ended so."""
    run = RunDir(folder)
    run.write_config(ServerOptions(workers=3))
    run.begin_summary({"ended": ended})
    run.checkpoint("final").parent.mkdir()
    run.checkpoint("final").write_bytes(b"its model")
    run.events.write_text("{}")
    (folder / "notes.txt").write_text("of the user")
    return run


@pytest.mark.parametrize("ended", ["done", "incomplete", "SIGTERM"])
def test_a_folder_with_a_summary_is_refused_unless_its_run_can_go_on(
    tmp_path: Path, ended: str
) -> None:
    left(tmp_path, ended)
    with pytest.raises(UsageError, match="a run has left its summary there; take another"):
        RunDir(tmp_path)
    if ended == "done":
        with pytest.raises(UsageError, match=r"the run there is done; .* --fresh$"):
            RunDir(tmp_path, goes_on=True)
    else:
        assert RunDir(tmp_path, goes_on=True).newest_checkpoint == (
            tmp_path / "checkpoints" / "final.safetensors"
        )


def test_a_summary_that_cannot_be_read_says_nothing_of_being_done(tmp_path: Path) -> None:
    left(tmp_path, "done").summary.write_text('{"ended": "do')
    assert RunDir(tmp_path, goes_on=True).newest_checkpoint is not None


def test_a_run_that_begins_anew_keeps_what_others_have_left_in_folders_of_their_own(
    tmp_path: Path,
) -> None:
    for number in (1, 2):
        left(tmp_path, "done")
        run = RunDir(tmp_path, goes_on=True, fresh=True)
        assert run.newest_checkpoint is None
        before = tmp_path / f"before-{number}"
        assert sorted(os.listdir(before)) == [
            "checkpoints", "config.yaml", "events.jsonl", "summary.json",
        ]  # fmt: skip
        assert (before / "checkpoints" / "final.safetensors").read_bytes() == b"its model"
    assert sorted(os.listdir(tmp_path)) == ["before-1", "before-2", "notes.txt"]


def test_what_earlier_servers_have_left_is_kept_and_goes_with_a_run_that_begins_anew(
    tmp_path: Path,
) -> None:
    for generation, ended in ((1, "SIGTERM"), (2, "failed")):
        run = RunDir(tmp_path, goes_on=True)
        run.begin_summary({"ended": ended})
        run.events.write_text(f"of server {generation}")
        run.keep_earlier(generation)
        run.keep_earlier(generation)  # by a server that could not begin
        assert not run.summary.exists()
    assert (tmp_path / "events-1.jsonl").read_text() == "of server 1"
    assert json.loads((tmp_path / "summary-2.json").read_text()) == {"ended": "failed"}
    kept = ["events-1.jsonl", "events-2.jsonl", "summary-1.json", "summary-2.json"]
    assert sorted(os.listdir(tmp_path)) == kept
    RunDir(tmp_path, goes_on=True, fresh=True)
    assert sorted(os.listdir(tmp_path / "before-1")) == kept


def test_a_server_that_could_not_begin_takes_no_events_away(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for content in ("of server 1", "of one that could not begin"):
        run.events.write_text(content)
        run.keep_earlier(1)
    assert (tmp_path / "events-1.jsonl").read_text() == "of server 1"


def test_nothing_is_moved_where_there_is_nothing(tmp_path: Path) -> None:
    RunDir(tmp_path, goes_on=True, fresh=True)
    assert os.listdir(tmp_path) == []


def test_a_run_whose_last_checkpoint_was_not_written_yet_is_not_done(tmp_path: Path) -> None:
    run = left(tmp_path, "done")
    run.checkpoint("final").unlink()
    assert RunDir(tmp_path, goes_on=True).newest_checkpoint is None
