"""The files of this host: one that is read, and one that is written beside its place.

This module imports little: the process that writes checkpoints begins with it.
"""

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

# So much is written before it is forced to the disk. Otherwise the system would keep gigabytes to
# write, and hold up everybody else's writes on this host.
FORCED_NBYTES: Final = 64 << 20


def unfinished(path: Path) -> Path:
    """The name under which a file is written before it takes its place."""
    return path.with_name(path.name + ".unfinished")


def memory_file() -> int:
    """Makes an empty file in memory, without a name; gives its descriptor."""
    return os.memfd_create("leash-checkpoint", os.MFD_CLOEXEC)


class HostFile:
    """An open file of this host."""

    def __init__(self, fd: int) -> None:
        """Takes over a file descriptor."""
        self._fd: Final = fd
        self.nbytes: Final = os.fstat(fd).st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        return os.pread(self._fd, nbytes, offset)

    def close(self) -> None:
        os.close(self._fd)


class HostTarget:
    """A file that is written beside its places, any part of it, and moved there at the end.

    Its methods raise OSError, but for `discard`.
    """

    def __init__(self, paths: Sequence[Path], memory: int | None = None) -> None:
        """Opens nothing yet.

        Args:
            paths: the places of the file; none for a file in memory.
            memory: the descriptor of such a file, which somebody else has made and keeps.
        """
        self._paths: Final = list(paths)
        self._memory: Final = memory
        self._fd: int | None = None
        self._unforced_nbytes = 0

    def open(self) -> None:
        """Makes the folder where it is not there, and begins an empty file."""
        if not self._paths:
            self._fd = memory_file() if self._memory is None else os.dup(self._memory)
            return
        beside = unfinished(self._paths[-1])
        beside.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(beside, flags, 0o666)

    def write_at(self, offset: int, piece: bytes | bytearray | memoryview) -> None:
        """Writes all of a piece."""
        assert self._fd is not None
        rest = memoryview(piece)
        while rest:
            count = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[count:], offset + count
            self._unforced_nbytes += count
        if self._unforced_nbytes >= FORCED_NBYTES and self._paths:
            self._unforced_nbytes = 0
            os.fdatasync(self._fd)

    def finish(self) -> None:
        """Forces the file to the disk, and moves it to its places."""
        if not self._paths:
            if self._memory is not None:
                self._close()
            return
        assert self._fd is not None
        os.fsync(self._fd)
        beside = unfinished(self._paths[-1])
        if not self._is_still(beside):  # it was given up meanwhile, as while the disk hung
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(beside))
        for path in self._paths[:-1]:
            _name_also(beside, unfinished(path))
            unfinished(path).replace(path)
        beside.replace(self._paths[-1])
        self._close()

    def reopen(self) -> HostFile:
        """Opens the finished file to read from."""
        if self._paths:
            return HostFile(os.open(self._paths[-1], os.O_RDONLY | os.O_CLOEXEC))
        assert self._fd is not None
        return HostFile(os.dup(self._fd))

    def discard(self) -> None:
        """Lets the file go, and removes what is not finished; nothing is left to do after that."""
        for path in self._paths if self._fd is not None else ():
            with suppress(OSError):  # where nothing can be written, there may be nothing to unlink
                if self._is_still(unfinished(path)):
                    unfinished(path).unlink()
        self._close()

    def _is_still(self, path: Path) -> bool:
        """Whether this name is still that of our file: others may have taken its place."""
        assert self._fd is not None
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _name_also(path: Path, other: Path) -> None:
    """Gives a file a second name, or a copy where a file can have only one."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
        with other.open("rb") as copy:
            os.fsync(copy.fileno())
