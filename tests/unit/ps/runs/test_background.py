"""Checkpoints that a thread or a process writes, while whoever gives them waits for nothing."""

import fcntl
import gc
import os
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from leash.ps.runs.background import in_time
from leash.ps.runs.background.disk import BackgroundDisk
from leash.ps.runs.background.in_time import HANG_S, HANGS, ReadInTime
from leash.ps.runs.background.writer import SLOTS
from leash.ps.runs.checkpoint_file import HostTarget, Plan, Tensor, unfinished
from leash.ps.runs.disk import PART_NBYTES, GrowingFile, Writing

VALUES = 1_000_003  # some parts, and a little
CONTENT = os.urandom(4 * VALUES)
PLAN = Plan({"leash_format": "2"}, [[(Tensor("w", "f32", (VALUES,)), 0)]])
PATIENCE_S = 30.0

urgent_or_not = pytest.mark.parametrize("is_urgent", [True, False], ids=["thread", "process"])


@pytest.fixture
def disk() -> Iterator[BackgroundDisk]:
    made = BackgroundDisk()
    yield made
    made.close()


def wait(disk: BackgroundDisk) -> None:
    """Until a writer tells something."""
    ready, _, _ = select.select(disk.descriptors, [], [], PATIENCE_S)
    assert ready, "nothing has come"
    disk.attend()


def feed(disk: BackgroundDisk, writing: Writing, content: bytes = CONTENT) -> None:
    """All of it, or a part that is not the end."""
    for begin in range(0, len(content), PART_NBYTES):
        part = content[begin : begin + PART_NBYTES]
        while (place := writing.room(len(part))) is None:
            if writing.is_over:
                return
            wait(disk)
        place[:] = part
        writing.take(0, begin, len(part))
    if content is CONTENT:
        writing.finish()


def await_end(disk: BackgroundDisk, writing: Writing) -> OSError | None:
    while not writing.is_over:
        wait(disk)
    return writing.failure


@contextmanager
def bounded(nbytes: int) -> Iterator[None]:
    """No file of this process, or of one that it starts, gets larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@urgent_or_not
def test_one_file_after_the_other_is_there_whole_under_all_of_its_names(
    tmp_path: Path, disk: BackgroundDisk, is_urgent: bool
) -> None:
    folder = tmp_path / "deep" / "checkpoints"
    for names in (["latest"], ["epoch-1", "final"], ["latest"]):
        paths = [folder / name for name in names]
        writing = disk.begin(paths, PLAN, is_urgent=is_urgent)
        feed(disk, writing)
        assert await_end(disk, writing) is None
        for path in paths:
            assert load_file(path)["w"].tobytes() == CONTENT
        file = writing.open()
        assert file.read(0, file.nbytes) == paths[-1].read_bytes()
        file.close()
        writing.abandon()
    assert sorted(os.listdir(folder)) == ["epoch-1", "final", "latest"]


@urgent_or_not
def test_nothing_is_at_its_place_before_it_is_whole(
    tmp_path: Path, disk: BackgroundDisk, is_urgent: bool
) -> None:
    path = tmp_path / "latest"
    path.write_bytes(b"old")
    writing = disk.begin([path], PLAN, is_urgent=is_urgent)
    feed(disk, writing, CONTENT[: 4 * PART_NBYTES])
    assert path.read_bytes() == b"old"
    writing.abandon()
    disk.close()
    assert os.listdir(tmp_path) == ["latest"]
    assert path.read_bytes() == b"old"


@urgent_or_not
def test_it_takes_only_so_much_at_once(
    tmp_path: Path, disk: BackgroundDisk, is_urgent: bool
) -> None:
    os.mkfifo(unfinished(tmp_path / "latest"))  # a pipe has no places, so no part is ever free
    writing = disk.begin([tmp_path / "latest"], PLAN, is_urgent=is_urgent)
    taken = 0
    while writing.room(PART_NBYTES) is not None:
        writing.take(0, taken * PART_NBYTES, PART_NBYTES)
        taken += 1
        assert taken <= SLOTS
    assert taken == SLOTS or writing.failure is not None  # which may have come by then
    assert await_end(disk, writing) is not None


@urgent_or_not
def test_what_fails_is_told_and_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, is_urgent: bool
) -> None:
    path = tmp_path / "latest"
    path.write_bytes(b"old")
    with bounded(SLOTS * PART_NBYTES):
        disk = BackgroundDisk()
        writing = disk.begin([path], PLAN, is_urgent=is_urgent)
        feed(disk, writing)
        failure = await_end(disk, writing)
        assert failure is not None
        assert failure.strerror == "File too large"
        assert (os.listdir(tmp_path), path.read_bytes()) == (["latest"], b"old")
        memory = disk.begin([], PLAN, is_urgent=is_urgent)
        memory.abandon()
        disk.close()


def test_a_file_in_memory_has_the_same_content_and_is_gone_with_its_last_reader(
    tmp_path: Path, disk: BackgroundDisk
) -> None:
    named = disk.begin([tmp_path / "latest"], PLAN)
    feed(disk, named)
    assert await_end(disk, named) is None
    gc.collect()  # what earlier tests have left would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    nameless = disk.begin([], PLAN)
    feed(disk, nameless)
    assert await_end(disk, nameless) is None
    files = [nameless.open(), nameless.open()]
    nameless.abandon()
    for file in files:
        assert file.read(0, file.nbytes) == (tmp_path / "latest").read_bytes()
        file.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == ["latest"]


def test_a_process_that_is_killed_fails_its_file_alone(
    tmp_path: Path, disk: BackgroundDisk
) -> None:
    writing = disk.begin([tmp_path / "latest"], PLAN, is_urgent=False)
    feed(disk, writing, CONTENT[: 12 * PART_NBYTES])
    (process,) = (p for p in psutil.Process().children() if "background" in " ".join(p.cmdline()))
    process.kill()
    failure = await_end(disk, writing)
    assert failure is not None
    assert failure.strerror == "the process that writes it has ended"
    writing.abandon()
    assert os.listdir(tmp_path) == []
    again = disk.begin([tmp_path / "latest"], PLAN, is_urgent=False)
    feed(disk, again)
    assert await_end(disk, again) is None


def test_the_process_gives_way_to_everybody(tmp_path: Path, disk: BackgroundDisk) -> None:
    feed(disk, writing := disk.begin([tmp_path / "latest"], PLAN, is_urgent=False))
    assert await_end(disk, writing) is None
    (process,) = (p for p in psutil.Process().children() if "background" in " ".join(p.cmdline()))
    assert process.nice() == 19
    assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE


@urgent_or_not
def test_one_that_hangs_at_its_disk_is_given_up_and_does_no_harm_when_it_wakes(
    tmp_path: Path, disk: BackgroundDisk, is_urgent: bool
) -> None:
    path = tmp_path / "latest"
    os.mkfifo(unfinished(path))  # to open it takes until somebody reads it
    hanging = disk.begin([path], PLAN, is_urgent=is_urgent)
    hanging.abandon()
    writing = disk.begin([path], PLAN, is_urgent=is_urgent)
    feed(disk, writing, CONTENT[: 4 * PART_NBYTES])
    disk.close()  # by now the first one has ended, if nothing is wrong
    writing.abandon()
    assert os.listdir(tmp_path) == []


def test_a_file_that_another_has_replaced_is_neither_moved_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "latest"
    old = HostTarget([path])
    old.open()
    old.write_at(0, b"old")
    unfinished(path).unlink()
    new = HostTarget([path])
    new.open()
    with pytest.raises(FileNotFoundError):
        old.finish()
    old.discard()
    new.write_at(0, b"new")
    new.finish()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["latest"]


# Lines.

PIPE_NBYTES = 4096


@contextmanager
def hanging(path: Path) -> Iterator[int]:
    """A file that takes a few thousand bytes, and no more until somebody reads from it."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_NBYTES)
    try:
        yield end
    finally:
        os.close(end)


def read_so_many(end: int, nbytes: int) -> bytes:
    came = b""
    while len(came) < nbytes:
        came += os.read(end, PIPE_NBYTES)
    return came


@pytest.mark.parametrize("opens", [BackgroundDisk.create, BackgroundDisk.append])
def test_a_file_that_hangs_holds_up_nobody_for_long_and_has_each_line_once(
    tmp_path: Path, disk: BackgroundDisk, opens: Callable[[BackgroundDisk, Path], GrowingFile]
) -> None:
    lines = [b"%05d\n" % number for number in range(2000)]
    with hanging(tmp_path / "lines") as end:
        file = opens(disk, tmp_path / "lines")
        waiting = b"".join(lines[:1000])
        began_s = time.monotonic()
        with pytest.raises(OSError, match=HANGS):
            file.write(waiting)
        assert time.monotonic() - began_s > 0.9 * HANG_S
        for _ in range(100):  # from now on it says so at once
            with pytest.raises(OSError, match=HANGS):
                file.write(waiting)
        assert time.monotonic() - began_s < 10 * HANG_S
        waiting += b"".join(lines[1000:])
        os.set_blocking(end, True)
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(read_so_many, end, len(waiting))
            while waiting:
                with suppress(OSError):
                    waiting = waiting[file.write(waiting) or 0 :]
            came = reading.result(PATIENCE_S)
        file.close()
    assert came == b"".join(lines)


def test_a_file_that_hangs_is_left_alone_at_the_end(tmp_path: Path, disk: BackgroundDisk) -> None:
    with hanging(tmp_path / "lines"):
        file = disk.append(tmp_path / "lines")
        with pytest.raises(OSError, match=HANGS):
            file.write(bytes(2 * PIPE_NBYTES))
        file.force_soon()
        file.close()


def test_what_a_disk_refuses_is_raised_as_its_own_error(disk: BackgroundDisk) -> None:
    file = disk.append(Path("/dev/full"))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            file.write(b"a line")
    file.close()


# What hangs.


def test_a_file_that_hangs_when_it_is_opened_is_given_up_and_closed_if_it_comes_after_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: BackgroundDisk
) -> None:
    monkeypatch.setattr(in_time, "HANG_S", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # to open it for reading takes until somebody writes
    gc.collect()  # what earlier tests have left would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TimeoutError, match="the disk does not answer"):
        ReadInTime(lambda: disk.open(pipe))
    errands = [t for t in threading.enumerate() if t.name == "leash-errand"]
    with pipe.open("wb"):
        for errand in errands:
            errand.join(10.0)
    assert not any(errand.is_alive() for errand in errands)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_hangs_when_it_is_read_or_removed_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: BackgroundDisk
) -> None:
    path, goes_on = tmp_path / "file", threading.Event()
    path.write_bytes(b"0123456789")
    file = ReadInTime(lambda: disk.open(path))
    assert (file.nbytes, file.read(2, 3)) == (10, b"234")
    monkeypatch.setattr(in_time, "HANG_S", 0.05)
    monkeypatch.setattr(os, "pread", lambda *_: goes_on.wait(10.0) and b"")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: goes_on.wait(10.0))
    with pytest.raises(TimeoutError):
        file.read(2, 3)
    with pytest.raises(TimeoutError):
        disk.remove(path)
    goes_on.set()
    file.close()


def test_what_is_not_there_is_no_disk_that_hangs(tmp_path: Path, disk: BackgroundDisk) -> None:
    with pytest.raises(FileNotFoundError):
        ReadInTime(lambda: disk.open(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        disk.append(tmp_path / "missing" / "journal")
    disk.remove(tmp_path / "missing")
