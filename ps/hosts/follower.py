"""The far end of a launcher's ssh: has a worker started, sends its log, and carries signals.

It ends with its ssh, and the worker does not. The next one goes on with the log where the launcher
says.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from select import select
from typing import Final

from leash.ps.hosts.frames import (
    DONE_WORD,
    END_WORD,
    FOLLOWER,
    LOG_NAME,
    MAX_OUT_NBYTES,
    OUT_WORD,
    READ_NBYTES,
    SOCKET,
    Request,
    WorkerStart,
    status_in,
)
from leash.ps.processes import module_argv

STDIN: Final = 0
STDOUT: Final = 1
KEEPER: Final = "leash.ps.hosts.keeper"


def follow() -> int:
    """Follows the worker that the first line of standard input names."""
    # Without a buffer, so that what comes behind the line is still to be seen by `select`.
    with open(STDIN, "rb", buffering=0, closefd=False) as stdin:
        request = Request.from_line(stdin.readline())
    folder = Path(tempfile.gettempdir(), request.folder)
    if request.start is not None:
        start_keeper(folder, request.start)
    _write(FOLLOWER)
    return Follower(folder, request.begin).run()


def start_keeper(folder: Path, start: WorkerStart) -> None:
    """Starts a worker with its keeper, unless a follower before this one has."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    os.chdir(folder)  # the path of a socket may have about a hundred characters
    with socket.socket(socket.AF_UNIX) as listening, (folder / LOG_NAME).open("ab") as log:
        listening.bind(SOCKET)
        listening.listen()
        keeper = subprocess.Popen(
            module_argv(KEEPER, str(folder), str(listening.fileno())),
            stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[listening.fileno()],
            start_new_session=True,
        )  # fmt: skip
        assert keeper.stdin is not None
        with suppress(BrokenPipeError), keeper.stdin:
            keeper.stdin.write(start.to_json().encode() + b"\n")


class Follower:
    """Sends what is new in a worker's log, and at last its status."""

    def __init__(self, folder: Path, begin: int) -> None:
        """Sends nothing yet.

        Args:
            folder: of the worker's files.
            begin: the first byte of its log to send.
        """
        self._folder: Final = folder
        self._sent = begin
        self._heard = b""  # the beginning of a line

    def run(self) -> int:
        """Goes on until the launcher has all, or ssh is lost."""
        with ExitStack() as stack:
            keeper = self._connect()
            if keeper is not None:
                stack.enter_context(keeper)
            self._send_log()
            while keeper is not None:
                ready, _, _ = select([STDIN, keeper.fileno()], [], [])
                if STDIN in ready and not self._carry(keeper):
                    return 1
                if keeper.fileno() in ready:
                    is_there = _takes(keeper)
                    self._send_log()
                    keeper = keeper if is_there else None
        _write(b"%b %d\n" % (END_WORD, status_in(self._folder)))
        while self._carry(None):
            continue
        return 0

    def _connect(self) -> socket.socket | None:
        """The way to the keeper; None if it has ended, or the host has lost the folder."""
        try:
            os.chdir(self._folder)
            keeper = socket.socket(socket.AF_UNIX)
            keeper.connect(SOCKET)
        except OSError:
            return None
        return keeper

    def _send_log(self) -> None:
        with suppress(FileNotFoundError), (self._folder / LOG_NAME).open("rb") as log:
            log.seek(self._sent)
            while data := log.read(MAX_OUT_NBYTES):
                self._sent += len(data)
                _write(b"%b %d\n%b" % (OUT_WORD, len(data), data))

    def _carry(self, keeper: socket.socket | None) -> bool:
        """Carries the launcher's lines to the keeper; False once it has all, or has gone."""
        data = os.read(STDIN, READ_NBYTES)
        *lines, self._heard = (self._heard + data).split(b"\n")
        if DONE_WORD in lines:
            shutil.rmtree(self._folder, ignore_errors=True)
            return False
        if keeper is not None and lines:
            with suppress(OSError):  # it has ended, which is about to be noticed
                keeper.sendall(b"".join(line + b"\n" for line in lines))
        return bool(data)


def _takes(keeper: socket.socket) -> bool:
    """Takes the bytes that say that the log has grown; False at the keeper's end."""
    try:
        return bool(keeper.recv(READ_NBYTES))
    except OSError:
        return False


def _write(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(STDOUT, left) :]


if __name__ == "__main__":
    sys.exit(follow())
