"""`--sync`: which directory, and where it goes."""

import os
import subprocess
from pathlib import Path

import pytest

from leash.ps.errors import UsageError
from leash.ps.hosts import copying
from leash.ps.hosts.ssh import Outcome


def test_the_directory_holds_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "project" / "code").mkdir(parents=True)
    here = str(tmp_path / "project" / "code")
    assert copying.copied_directory(str(tmp_path / "project"), here) == str(tmp_path / "project")
    with pytest.raises(UsageError, match=r"^--sync /no/such: there is no such directory"):
        copying.copied_directory("/no/such", here)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"the workers begin in .*/code, which is not in it"):
        copying.copied_directory(str(tmp_path / "other"), here)


def copied(
    monkeypatch: pytest.MonkeyPatch, outcomes: dict[str, Outcome], directory: str,
    *left_out: str,
) -> tuple[dict[str, list[str]], list[str]]:  # fmt: skip
    """The command lines that `copy_to_hosts` runs, and what it says."""
    ran: dict[str, list[str]] = {}
    said: list[str] = []

    def run_all(commands: dict[str, list[str]], *_: object) -> list[tuple[str, Outcome]]:
        ran.update(commands)
        return list(outcomes.items())

    monkeypatch.setattr(copying, "run_all", run_all)
    copying.copy_to_hosts(directory, list(outcomes), left_out, said.append)
    return ran, said


def test_each_host_gets_it_at_the_same_place_below_its_own_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    good = Outcome(0, "", "")
    hosts = {"gpu1": good, "me@fd00::1": good}
    ran, said = copied(
        monkeypatch, hosts, "/home/me/a b", "/home/me/a b/runs", "/home/me/a b/a[1]\\*"
    )
    assert [argv[-1] for argv in ran.values()] == ["gpu1:a b/", "me@[fd00::1]:a b/"]
    assert all(argv[-2] == "/home/me/a b/" for argv in ran.values())
    assert "--rsync-path=mkdir -p \"$HOME\"/'a b' && rsync" in ran["gpu1"]
    assert "--exclude=/runs" in ran["gpu1"]
    assert r"--exclude=/a\[1]\\\*" in ran["gpu1"]
    assert "--filter=:- .gitignore" in ran["gpu1"]
    assert not [word for word in ran["gpu1"] if word.startswith("--delete")]
    assert said[0] == "copying /home/me/a b to gpu1 and me@fd00::1"
    ran, _ = copied(monkeypatch, hosts, "/srv/x", os.path.abspath("/elsewhere/runs"))
    assert ran["gpu1"][-1] == "gpu1:/srv/x/"
    assert not [word for word in ran["gpu1"] if word.startswith("--exclude=/elsewhere")]


def test_neither_secret_keys_nor_runs_are_copied(tmp_path: Path) -> None:
    here, there = tmp_path / "project", tmp_path / "there"
    wanted = ["train.py", "keys/allowed/worker-1.pub", "data/x[1]", "a*b/c.py", "worker-1.txt"]
    secret = [f"keys/{name}.key" for name in ("server", "admin", "observer", "worker-1")]
    runs = ["runs/old/x", "mine/1/summary.json", "mine/1/logs/x", "b*[2]/events.jsonl", "b*[2]/x",
            "now/config.yaml"]  # fmt: skip
    for name in [
        *wanted,
        *secret,
        "old/worker-2.key",
        *runs,
        ".git/x",
        "sub/.git",
        "a*b/__pycache__/c.pyc",
    ]:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    left_out = [*copying.runs_in(str(here)), str(here / "runs"), str(here / "now")]
    filters = copying.filters_for(str(here), left_out)
    subprocess.run(["rsync", "--archive", *filters, f"{here}/", f"{there}/"], check=True)
    copied = [path for path in there.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(there)) for path in copied) == sorted(wanted)


def test_what_rsync_says_of_a_host_is_told_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hosts = {"gpu1": Outcome(0, "", ""), "gpu2": Outcome(11, "", "rsync: No space left (28)")}
    with pytest.raises(UsageError, match=r"^--sync /x: could not be copied to gpu2 \(see above\)"):
        copied(monkeypatch, hosts, "/x")
