"""The files of this host do what the contract of `Disk` says."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leash.ps.runs.checkpoint_file import unfinished
from leash.ps.runs.disk import THIS_HOST


def test_a_file_is_replaced_whole_and_what_was_beside_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in ([b"old"], [b"new ", bytearray(b"in "), memoryview(b"pieces")], []):
        THIS_HOST.replace(path, content)
        assert path.read_bytes() == b"".join(content)
        assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_forced_to_the_disk_before_the_file_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, forced, fsync = tmp_path / "file", [], os.fsync
    path.write_bytes(b"old")

    def note(fd: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        forced.append((Path(name), Path(name).read_bytes(), path.read_bytes()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    THIS_HOST.replace(path, [b"a", b"b"])
    assert forced == [(unfinished(path), b"ab", b"old")]
    assert path.read_bytes() == b"ab"


def test_a_file_that_could_not_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        THIS_HOST.replace(path, half())
    assert path.read_bytes() == b"old"
    assert unfinished(path).read_bytes() == b"half"


def test_an_open_file_stays_what_it_was_when_another_takes_its_place_or_it_is_removed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    THIS_HOST.replace(path, [b"0123456789"])
    file = THIS_HOST.open(path)
    THIS_HOST.replace(path, [b"other"])
    THIS_HOST.remove(path)
    assert file.nbytes == 10
    assert [file.read(*where) for where in ((0, 4), (8, 4), (10, 4))] == [b"0123", b"89", b""]
    file.close()
    with pytest.raises(FileNotFoundError):
        THIS_HOST.open(path)


def test_what_was_written_is_in_a_growing_file_which_begins_empty(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"of before")
    file = THIS_HOST.create(path)
    assert path.read_bytes() == b""
    assert file.write(b"a") == 1
    assert path.read_bytes() == b"a"
    file.write(b"b")
    file.close()
    assert path.read_bytes() == b"ab"


def test_folders_files_and_what_is_not_there_are_told_apart(tmp_path: Path) -> None:
    folder, file = tmp_path / "deep" / "folder", tmp_path / "deep" / "file"
    assert THIS_HOST.files_in(folder) == []
    THIS_HOST.make_folder(folder)
    THIS_HOST.make_folder(folder)
    THIS_HOST.replace(file, [])
    os.utime(file, ns=(5, 7))
    assert [THIS_HOST.exists(p) for p in (folder, file, tmp_path / "none")] == [True, True, False]
    assert [THIS_HOST.is_folder(p) for p in (folder, file, tmp_path / "none")] == [
        True, False, False,
    ]  # fmt: skip
    assert THIS_HOST.files_in(tmp_path / "deep") == [(file, 7)]
    THIS_HOST.remove(file)
    THIS_HOST.remove(file)
    assert THIS_HOST.files_in(tmp_path / "deep") == []
    with THIS_HOST.local_name(folder) as name:
        assert os.path.samefile(name, folder)
