"""Keys as files: what is written, who may read it, and what is said of a wrong one."""

import os
import re
from pathlib import Path

import pytest
import zmq
import zmq.auth

from leash.ps.errors import UsageError
from leash.ps.wire.keys import (
    Keyring,
    add_key,
    admin_key,
    key_files,
    key_for,
    new_keys,
    read_allowed,
    revoke_key,
    worker_files,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    new_keys(made, 2)
    return made


def test_a_new_folder_has_a_key_for_everybody_and_lets_all_of_them_in(folder: Path) -> None:
    names = ["worker-1", "worker-2", "observer", "admin"]
    assert {p.name for p in folder.iterdir()} == {
        "allowed", "server.key", *(f"{name}.key" for name in names)
    }  # fmt: skip
    holders = read_allowed(folder)
    assert [(h.name, h.role, h.rank) for h in holders] == [
        ("worker-1", "worker", None), ("worker-2", "worker", None),
        ("observer", "observer", None), ("admin", "admin", None),
    ]  # fmt: skip
    assert len({h.public for h in holders}) == 4


def test_nobody_else_may_read_what_is_made(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}


def test_the_files_are_certificates_of_zmq_auth(folder: Path) -> None:
    public = {h.name: h.public for h in read_allowed(folder)}
    for name, told in public.items():
        pair = zmq.auth.load_certificate(folder / f"{name}.key")
        assert pair[0] == told.encode()
        assert pair[1] is not None
        assert zmq.curve_public(pair[1]) == pair[0]  # they belong together


def test_a_client_key_names_its_server(folder: Path) -> None:
    key = key_for(folder / "worker-1.key")
    assert key is not None
    assert key.server == Keyring(str(folder)).public
    assert key.secret not in repr(key)


def test_the_environment_names_the_key_of_a_process_without_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEASH_KEY", raising=False)
    assert key_for(None) is None
    monkeypatch.setenv("LEASH_KEY", str(folder / "worker-2.key"))
    assert key_for(None) == key_for(folder / "worker-2.key")
    assert key_for(folder / "worker-1.key") == key_for(str(folder / "worker-1.key"))
    assert key_for(folder / "worker-1.key") != key_for(None)


def test_a_key_that_is_added_is_let_in_and_one_that_is_revoked_is_not(folder: Path) -> None:
    ring = Keyring(str(folder))
    before = dict(ring.holders)
    path = add_key(folder, "late", "worker", rank=7)
    ring.refresh()
    (added,) = (h for key, h in ring.holders.items() if key not in before)
    assert (added.name, added.role, added.rank) == ("late", "worker", 7)
    revoke_key(folder, "late")
    assert not path.exists()
    ring.refresh()
    assert ring.holders == before


def test_a_server_goes_on_with_those_it_knows_while_the_file_cannot_be_read(folder: Path) -> None:
    ring = Keyring(str(folder))
    before = dict(ring.holders)
    (folder / "allowed").write_text("what is this\n")
    ring.refresh()
    (folder / "allowed").unlink()
    ring.refresh()
    assert ring.holders == before


def test_workers_get_the_keys_of_their_ranks_and_the_others_what_is_left(folder: Path) -> None:
    add_key(folder, "first", "worker", rank=1)
    files = [Path(file).stem for file in worker_files(str(folder), 3)]
    assert files == ["first", "worker-1", "worker-2"]
    with pytest.raises(UsageError, match="too few files of workers' keys for --workers 4"):
        worker_files(str(folder), 4)
    assert key_files(str(folder), "observer") == [str(folder / "observer.key")]
    (folder / "admin.key").unlink()  # it was moved away
    with pytest.raises(UsageError, match=r"no file of an admin's key.*--role admin"):
        admin_key(str(folder))


@pytest.mark.parametrize("name", ["server", "", ".", "../x", "a b", "x/y", "-", "ü", "x" * 65])
def test_a_name_that_is_none_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match="give a name of letters"):
        add_key(folder, name, "worker")


def test_a_name_or_a_rank_is_given_once(folder: Path) -> None:
    add_key(folder, "third", "worker", rank=3)
    with pytest.raises(UsageError, match=r"third: .* has a key of this name; take another name"):
        add_key(folder, "third", "admin")
    with pytest.raises(UsageError, match="--rank 3: the key third has it"):
        add_key(folder, "other", "worker", rank=3)
    with pytest.raises(UsageError, match="has keys already; leash keys add"):
        new_keys(folder, 1)
    with pytest.raises(UsageError, match=r"no key of this name; .* lets in: worker-1, worker-2"):
        revoke_key(folder, "nobody")


def test_a_key_that_everybody_may_read_is_refused(folder: Path) -> None:
    path = folder / "worker-1.key"
    path.chmod(0o644)
    with pytest.raises(UsageError, match=f"chmod 600 {re.escape(str(path))}"):
        key_for(path)
    (folder / "server.key").chmod(0o604)
    with pytest.raises(UsageError, match="everybody on this host may read it"):
        Keyring(str(folder))


def test_what_is_no_key_is_refused_by_its_name(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"key .*nothing.key: No such file.*leash keys new"):
        key_for(folder / "nothing.key")
    with pytest.raises(UsageError, match=r"server.key: is the server's own"):
        key_for(folder / "server.key")
    (folder / "worker-1.key").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is no text"):
        key_for(folder / "worker-1.key")
    (folder / "worker-2.key").write_text('public-key = "short"\n')
    with pytest.raises(UsageError, match="no pair of keys"):
        key_for(folder / "worker-2.key")
    with pytest.raises(UsageError, match=r"--keys .*empty: .*leash keys new"):
        read_allowed(folder / "empty")


@pytest.mark.parametrize(
    "line",
    ["worker-9 worker -", "worker-9 king - {key}", "worker-9 worker x {key}", "{key}",
     "worker-9 worker - {key} more", "worker-9 worker - not-a-key"],
)  # fmt: skip
def test_a_wrong_line_is_named_by_its_number(folder: Path, line: str) -> None:
    key = "0" * 40
    count = len((folder / "allowed").read_text().splitlines())
    with (folder / "allowed").open("a") as allowed:
        allowed.write(line.format(key=key) + "\n")
    with pytest.raises(UsageError, match=f"allowed, line {count + 1}: expected name, role"):
        read_allowed(folder)


def test_one_line_for_each_name_and_key(folder: Path) -> None:
    first = read_allowed(folder)[0]
    for line in (f"worker-1 worker - {'0' * 40}", f"again worker - {first.public}"):
        text = (folder / "allowed").read_text()
        (folder / "allowed").write_text(f"{text}{line}\n")
        with pytest.raises(UsageError, match="stands there twice"):
            read_allowed(folder)
        (folder / "allowed").write_text(text)


def test_a_key_may_begin_as_a_comment_does(folder: Path) -> None:
    odd = "#" + "0" * 39
    with (folder / "allowed").open("a") as allowed:
        allowed.write(f"odd worker - {odd}\n")
    assert read_allowed(folder)[-1].public == odd


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="take another folder"):
        new_keys(tmp_path / "file" / "keys", 1)
    assert os.listdir(tmp_path) == ["file"]
