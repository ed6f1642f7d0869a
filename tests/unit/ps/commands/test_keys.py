"""`leash keys`, as its command line is typed."""

from pathlib import Path

import pytest

from leash.ps.cli import run
from leash.ps.errors import UsageError


def keys(*words: str) -> None:
    assert run(["keys", *words]) == 0


def test_a_key_is_made_listed_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "keys")
    keys("new", folder, "--workers", "2")
    told = capsys.readouterr().out
    assert f"leash server --keys {folder} ..." in told
    assert "leash worker --key worker-1.key" in told
    keys("add", folder, "anna", "--role", "admin")
    keys("add", folder, "box", "--rank", "7")
    keys("revoke", folder, "worker-2")
    (tmp_path / "keys" / "anna.key").rename(tmp_path / "anna.key")
    capsys.readouterr()
    keys("list", folder)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[:4] for line in lines] == [
        ["worker-1", "worker", "rank", "-"], ["observer", "observer", "rank", "-"],
        ["admin", "admin", "rank", "-"], ["anna", "admin", "rank", "-"],
        ["box", "worker", "rank", "7"],
    ]  # fmt: skip
    assert [line.split()[0] for line in lines if "elsewhere" in line] == ["anna"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "keys"], "say whose key: leash keys add keys NAME"),
        (["revoke", "keys"], "say whose key: leash keys revoke keys NAME"),
        (["list", "keys", "anna"], "anna: leash keys list takes no name"),
        (["list", "keys"], "leash keys new keys makes keys"),
        (["new", "keys", "--rank", "2"], "--rank: is for leash keys add with --role worker"),
        (["add", "keys", "x", "--rank", "2", "--role", "admin"], "--rank: is for leash keys add"),
        (["new", "keys", "--workers", "0"], "--workers 0: give a number above 0"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=told):
        run(["keys", *words])
    assert list(tmp_path.iterdir()) == []
