"""Writes checkpoints for a server, which sends what they hold: a process, or a thread.

A checkpoint for which nobody waits is written by a process. It gives way to everybody: a thread of
the server could not, since it would be held up while it has Python's lock, and the server with it.
What somebody waits for is written by a thread of ordinary priority.

The messages are JSON, on a socket pair that nobody else has. The slots are memory that both share.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from leash.ps import interrupt
from leash.ps.runs.checkpoint_file import CheckpointFile, HostTarget, Plan
from leash.ps.runs.disk import PART_NBYTES, THIS_HOST

SLOTS: Final = 8
MESSAGE_NBYTES: Final = 1 << 16
LOWEST: Final = 19  # of the nice values: a share of 1.5 % beside one ordinary thread
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}  # the number of the system call
_IDLE_CLASS: Final = 3 << 13
_OF_THIS_PROCESS: Final = 1


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


if __name__ == "__main__":
    interrupt.ignore_signals()
    give_way()
    serve_writer(socket.socket(fileno=int(sys.argv[1])))
