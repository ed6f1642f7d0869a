"""Writes checkpoints beside the server's thread, which gives what they hold and waits for nothing.

::

    server's thread                                   writer: a process of low priority, or a thread
    begin, with the plan ─────────────────────────▸   opens the file
    copies up to 256 KiB of the model into a slot
    part 3 of array 0, at byte 262,144 ───────────▸   checksum, write
                       ◂───────────────────────────   slot 3 is free
    finish ───────────────────────────────────────▸   header, fsync, rename
                       ◂───────────────────────────   done

A checkpoint for which nobody waits is written by a process. It gives way to everybody: a thread of
the server could not, since it would be held up while it has Python's lock, and the server with it.
What somebody waits for is written by a thread of ordinary priority.

The messages are JSON, on a socket pair that nobody else has. The slots are memory that both share.

Lines of logs and of the journal are written by threads too. Whoever gives them waits until they are
in the file, but for HANG_S at most: a disk that does not answer, as one of a server of files that
has gone, counts as one that cannot be written, until it has taken what it was given. They wait as
long for what is opened, read or removed.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from leash.ps import interrupt
from leash.ps.processes import Process, spawn_module
from leash.ps.runs.checkpoint_file import (
    Bytes,
    CheckpointFile,
    HostFile,
    HostTarget,
    Plan,
    memory_file,
    unfinished,
)
from leash.ps.runs.disk import (
    PART_NBYTES,
    THIS_HOST,
    EndedWriting,
    ForcedFile,
    GrowingFile,
    OpenFile,
    ThisHost,
    Writing,
)

SLOTS: Final = 8
LOWEST: Final = 19  # of the nice values: a share of 1.5 % beside one ordinary thread
MESSAGE_NBYTES: Final = 1 << 16
END_S: Final = 5.0  # a process that was killed may take so long to end
THREAD_END_S: Final = 0.5  # a thread that nobody needs, likewise; it may hang at its disk
HANG_S: Final = 1.0  # so long one waits for a disk to take lines: less than before an eviction
HANGS: Final = "the disk does not answer"
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}  # the number of the system call
_IDLE_CLASS: Final = 3 << 13
_OF_THIS_PROCESS: Final = 1


class _Closable(Protocol):
    def close(self) -> None: ...


_Opened = TypeVar("_Opened", bound=_Closable)


class _Errand(threading.Thread):
    """Does one thing at a disk. One that hangs is left alone with it."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(name="leash-errand", daemon=True)
        self.failure: OSError | None = None
        self._act: Final = act

    def run(self) -> None:
        try:
            self._act()
        except OSError as error:
            self.failure = error

    def do(self) -> None:
        """Does it. Raises OSError: it cannot be done, or not within HANG_S."""
        self.start()
        self.join(HANG_S)
        if self.is_alive():
            raise OSError(errno.ETIMEDOUT, HANGS)
        if self.failure is not None:
            raise self.failure


def opened_in_time(opens: Callable[[], _Opened]) -> _Opened:
    """Opens a file, for HANG_S at most.

    Args:
        opens: gives the file. If it gives it too late, the file is closed.

    Raises:
        OSError: there is none, or the disk did not answer within HANG_S.
    """
    lock, is_late, found = threading.Lock(), False, list[_Opened]()

    def act() -> None:
        file = opens()
        with lock:
            if is_late:
                file.close()
            else:
                found.append(file)

    try:
        _Errand(act).do()
    except OSError:
        with lock:
            is_late = True
            for file in found:
                file.close()
        raise
    return found[0]


class ReadInTime:
    """A file that is read, at a disk that may hang. Implements OpenFile."""

    def __init__(self, opens: Callable[[], OpenFile]) -> None:
        """Opens it. Raises OSError, as every read does: it failed, or took longer than HANG_S.

        Args:
            opens: gives the file.
        """
        self._file: Final = opened_in_time(opens)

    @property
    def nbytes(self) -> int:
        return self._file.nbytes

    def read(self, offset: int, nbytes: int) -> bytes:
        pieces = list[bytes]()
        _Errand(lambda: pieces.append(self._file.read(offset, nbytes))).do()
        return pieces[0]

    def close(self) -> None:
        self._file.close()


def remove_in_time(path: Path) -> None:
    """Removes a file, if there is one. Raises OSError: it failed, or took longer than HANG_S."""
    _Errand(lambda: path.unlink(missing_ok=True)).do()


# The writer's side.


def serve_writer(end: socket.socket) -> None:
    """Writes what comes over this socket, until it ends; then what is not finished is removed."""
    with end:
        try:
            _, slots_fd = _receive(end)
            slots = mmap.mmap(slots_fd[0], SLOTS * PART_NBYTES)
            os.close(slots_fd[0])
            _WriterSide(end, memoryview(slots)).serve()
        except (ConnectionError, EOFError):
            return


class _WriterSide:
    """Writes one checkpoint after the other."""

    def __init__(self, end: socket.socket, slots: memoryview) -> None:
        self._end: Final = end
        self._slots: Final = slots
        self._number = 0
        self._target: HostTarget | None = None
        self._file: CheckpointFile | None = None

    def serve(self) -> None:
        """Does what comes. Raises EOFError or ConnectionError at the end."""
        try:
            while True:
                message, fds = _receive(self._end)
                try:
                    self._do(message, fds)
                except OSError as error:
                    self._drop()
                    self._tell("failed", error.errno or errno.EIO, error.strerror or str(error))
        finally:
            self._drop()

    def _do(self, message: list[Any], fds: list[int]) -> None:
        match message:
            case ["begin", number, paths]:
                self._begin(number, [Path(path) for path in paths], fds)
            case ["text", number, [path]]:
                self._drop()
                self._number = number
                THIS_HOST.replace(Path(path), [_content_of(fds[0])])
                self._tell("done")
            case ["part", number, slot, which, start, nbytes] if self._is_of(number):
                assert self._file is not None
                at = slot * PART_NBYTES
                self._file.write(which, start, self._slots[at : at + nbytes])
                self._tell("free", slot)
            case ["finish", number] if self._is_of(number):
                assert self._file is not None
                assert self._target is not None
                self._file.finish()
                self._target.finish()
                self._file = self._target = None
                self._tell("done")

    def _is_of(self, number: int) -> bool:
        return number == self._number and self._file is not None

    def _begin(self, number: int, paths: list[Path], fds: list[int]) -> None:
        self._drop()
        self._number = number
        plan = Plan.from_json(_content_of(fds[0]))
        self._target = HostTarget(paths, fds[1] if len(fds) > 1 else None)
        self._file = CheckpointFile(plan, self._target)
        try:
            self._target.open()
        finally:
            for fd in fds[1:]:
                os.close(fd)

    def _drop(self) -> None:
        if self._target is not None:
            self._target.discard()
        self._file = self._target = None

    def _tell(self, *words: Any) -> None:
        self._end.send(json.dumps([words[0], self._number, *words[1:]]).encode())


def _content_of(fd: int) -> bytes:
    """All of a file in memory, whose descriptor is closed then."""
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()


def _receive(end: socket.socket) -> tuple[list[Any], list[int]]:
    """Waits for the next message, with the descriptors that came along."""
    told, fds, _, _ = socket.recv_fds(end, MESSAGE_NBYTES, 2)
    if not told:
        raise EOFError
    return json.loads(told), fds


def give_way() -> None:
    """Has this process take only what others leave of processors and disks. Needs no privilege.

    It cannot be taken back without one. SCHED_IDLE would be less still: beside threads that never
    rest a checkpoint would then take hours.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with suppress(OSError):  # where each session has a share of its own, whatever is nice within it
        Path("/proc/self/autogroup").write_text(str(LOWEST), "utf-8")
    call = _IOPRIO_SET.get(platform.machine())
    if call is not None:
        ctypes.CDLL(None).syscall(call, _OF_THIS_PROCESS, 0, _IDLE_CLASS)


# The server's side.


class BackgroundWriting:
    """A checkpoint that a writer is at. Implements leash.ps.runs.disk.Writing."""

    def __init__(
        self, writer: "_Writer", number: int, what: str, paths: Sequence[Path], content: bytes
    ) -> None:  # fmt: skip
        """Has the writer begin.

        Args:
            writer: that is to write it.
            number: of this writing.
            what: "begin", a checkpoint, or "text".
            paths: of the file.
            content: the plan of a checkpoint, or all of a text.
        """
        self._writer: Final = writer
        self._number: Final = number
        self._paths: Final = list(paths)
        self._memory: Final = None if paths else memory_file()
        self._free: Final = list(range(SLOTS))
        self._slot: int | None = None  # the one that `room` has given
        self._is_over = False
        self._failure: OSError | None = None
        with open(memory_file(), "wb") as file:
            file.write(content)
            file.flush()
            fds = [file.fileno(), *([] if self._memory is None else [self._memory])]
            self._send([what, number, [str(path) for path in paths]], fds)

    @property
    def is_over(self) -> bool:
        self._writer.attend()
        return self._is_over

    @property
    def failure(self) -> OSError | None:
        return self._failure

    def room(self, nbytes: int) -> memoryview | None:
        if self._slot is None:
            if self.is_over or not self._free:
                return None
            self._slot = self._free.pop()
        at = self._slot * PART_NBYTES
        return self._writer.slots[at : at + nbytes]

    def take(self, array: int, start: int, nbytes: int) -> None:
        slot, self._slot = self._slot, None
        self._send(["part", self._number, slot, array, start, nbytes])

    def finish(self) -> None:
        self._send(["finish", self._number])

    def open(self) -> OpenFile:
        if self._memory is not None:
            return HostFile(os.dup(self._memory))
        return ReadInTime(lambda: THIS_HOST.open(self._paths[-1]))

    def abandon(self) -> None:
        if self._memory is not None:
            os.close(self._memory)
        if self._is_over and self._failure is None:
            return
        if not self._is_over:
            self._is_over = True
            self._writer.abandon()
        for path in self._paths:
            with suppress(OSError):
                remove_in_time(unfinished(path))

    def on_message(self, message: list[Any]) -> None:
        """Takes what the writer tells."""
        match message:
            case ["free", number, slot] if number == self._number:
                self._free.append(slot)
            case ["done", number] if number == self._number:
                self._is_over = True
            case ["failed", number, code, text] if number == self._number:
                self.fail(OSError(code, text))

    def fail(self, failure: OSError) -> None:
        """Notes that the file cannot be written."""
        if not self._is_over:
            self._is_over, self._failure = True, failure

    def _send(self, message: list[Any], fds: Sequence[int] = ()) -> None:
        if self._is_over:
            return
        try:
            socket.send_fds(self._writer.end, [json.dumps(message).encode()], fds)
        except OSError as error:
            self.fail(error)


class _Writer:
    """A thread or a process that writes, as the server sees it."""

    def __init__(self, *, is_process: bool) -> None:
        """Starts it. Raises OSError where that cannot be."""
        self.is_gone = False
        self.writing: BackgroundWriting | None = None  # what it is at
        self.end, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: Process | None = None
        self._thread: threading.Thread | None = None
        slots_fd = memory_file()
        try:
            os.ftruncate(slots_fd, SLOTS * PART_NBYTES)
            self.slots: Final = memoryview(mmap.mmap(slots_fd, SLOTS * PART_NBYTES))
            socket.send_fds(self.end, [b'["slots"]'], [slots_fd])
            if is_process:
                with far:
                    self._process = spawn_module("leash.ps.runs.background", far.fileno())
            else:
                self._thread = threading.Thread(
                    target=serve_writer, args=(far,), name="leash-checkpoint", daemon=True
                )
                self._thread.start()
        finally:
            os.close(slots_fd)
        self.end.setblocking(False)

    def attend(self) -> None:
        """Takes what it tells."""
        while not self.is_gone:
            try:
                told = self.end.recv(MESSAGE_NBYTES)
            except BlockingIOError:
                return
            except OSError:
                told = b""
            if not told:
                self._let_go()
            elif self.writing is not None:
                self.writing.on_message(json.loads(told))

    def abandon(self) -> None:
        """Ends it in the midst of what it is at; it may hang at its disk."""
        self.writing = None
        if self._process is not None:
            self._process.kill()
        self._let_go()

    def _let_go(self) -> None:
        self.is_gone = True
        self.end.close()
        if self.writing is not None:
            self.writing.fail(OSError(errno.EPIPE, "the process that writes it has ended"))

    def close(self) -> None:
        """Ends it; one that hangs at its disk is left alone."""
        if not self.is_gone:
            self._let_go()
        if self._thread is not None:
            self._thread.join(THREAD_END_S)
        if self._process is not None:
            self._process.kill()  # it has nothing to finish
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)


class FileInTime:
    """A file that grows, to which a thread of its own writes. Implements GrowingFile.

    A write that takes too long raises OSError. The next one is to begin with the same bytes: it
    takes what has become of that one in the meantime, and writes nothing twice.
    """

    def __init__(self, file: GrowingFile) -> None:
        """Starts no thread before the first write.

        Args:
            file: to which it writes.
        """
        self._file: Final = file
        self._piece = b""  # what the thread is at
        self._count = 0  # what came of it: so many bytes, or this failure
        self._failure: OSError | None = None
        self._is_due: Final = threading.Event()
        self._is_written: Final = threading.Event()
        self._is_late = False
        self._is_over = False
        self._thread: threading.Thread | None = None

    def write(self, piece: Bytes, /) -> int:
        if not self._is_late:
            self._begin(bytes(piece))
        self._is_late = not self._is_written.wait(0.0 if self._is_late else HANG_S)
        if self._is_late:
            raise OSError(errno.ETIMEDOUT, HANGS)
        self._is_written.clear()
        if self._failure is not None:
            raise self._failure
        return self._count

    def close(self) -> None:
        """Lets the file go; a thread that hangs at its disk is left alone with it."""
        self._is_over = True
        self._is_due.set()
        if self._thread is None:
            self._file.close()
        else:
            self._thread.join(THREAD_END_S)

    def _begin(self, piece: bytes) -> None:
        self._piece = piece
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="leash-lines", daemon=True)
            self._thread.start()
        self._is_due.set()

    def _serve(self) -> None:
        while True:
            self._is_due.wait()
            self._is_due.clear()
            if self._is_over:
                self._file.close()
                return
            self._failure = None
            try:
                self._count = self._file.write(self._piece) or 0
            except OSError as error:
                self._failure = error
            self._is_written.set()


class ForcedFileInTime(FileInTime):
    """The same of a file that outlives a power cut. Implements ForcedFile."""

    def __init__(self, file: ForcedFile) -> None:
        """Starts no thread before the first write.

        Args:
            file: to which it writes.
        """
        super().__init__(file)
        self._forced: Final = file

    def flush(self) -> None:
        """Does nothing: nothing stays in this process."""

    def force_soon(self) -> None:
        self._forced.force_soon()


class BackgroundDisk(ThisHost):
    """The files of this host, with checkpoints written beside the caller's thread."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._writers: Final[list[_Writer]] = []
        self._free: Final[dict[bool, _Writer]] = {}  # by whether it is a process
        self._count = 0

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        content = plan.as_json().encode()
        return self._begin("begin", paths, content, is_process=not is_urgent)

    def begin_text(self, path: Path, content: bytes) -> Writing:
        return self._begin("text", [path], content, is_process=False)

    def create(self, path: Path) -> GrowingFile:
        return FileInTime(opened_in_time(lambda: THIS_HOST.create(path)))

    def append(self, path: Path) -> ForcedFile:
        return ForcedFileInTime(opened_in_time(lambda: THIS_HOST.append(path)))

    def remove(self, path: Path) -> None:
        remove_in_time(path)

    @property
    def descriptors(self) -> list[int]:
        return [writer.end.fileno() for writer in self._writers if not writer.is_gone]

    def attend(self) -> None:
        for writer in self._writers:
            writer.attend()

    def close(self) -> None:
        """Ends the writers."""
        for writer in self._writers:
            writer.close()

    def _begin(
        self, what: str, paths: Sequence[Path], content: bytes, *, is_process: bool
    ) -> Writing:  # fmt: skip
        self._count += 1
        try:
            writer = self._writer(is_process=is_process)
            writer.writing = BackgroundWriting(writer, self._count, what, paths, content)
        except OSError as error:  # too many processes, or files
            return EndedWriting(error)
        return writer.writing

    def _writer(self, *, is_process: bool) -> _Writer:
        """One that has nothing to do."""
        known = self._free.get(is_process)
        is_free = known is not None and (known.writing is None or known.writing.is_over)
        if known is None or known.is_gone or not is_free:
            known = self._free[is_process] = _Writer(is_process=is_process)
            self._writers.append(known)
        return known


if __name__ == "__main__":
    interrupt.ignore_signals()
    give_way()
    serve_writer(socket.socket(fileno=int(sys.argv[1])))
