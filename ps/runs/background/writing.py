"""The server's side of a checkpoint that is being written: what it gives, and what it is told."""

import errno
import json
import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from leash.ps.processes import Process, spawn_module
from leash.ps.runs.background.in_time import THREAD_END_S, ReadInTime, remove_in_time
from leash.ps.runs.background.writer import MESSAGE_NBYTES, SLOTS, serve_writer
from leash.ps.runs.checkpoint_file import HostFile, memory_file, unfinished
from leash.ps.runs.disk import PART_NBYTES, THIS_HOST, OpenFile

END_S: Final = 5.0  # a process that was killed may take so long to end


class BackgroundWriting:
    """A checkpoint that a writer is at. Implements leash.ps.runs.disk.Writing."""

    def __init__(
        self, writer: "Writer", number: int, what: str, paths: Sequence[Path], content: bytes
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


class Writer:
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
                    self._process = spawn_module(
                        "leash.ps.runs.background.writer", far.fileno(), gives_way=True
                    )
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
