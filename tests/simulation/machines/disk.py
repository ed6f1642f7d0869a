"""A disk in memory that can be slow, full, and forget or spoil what was written.

The power never goes in a simulated run, but a process does; and a disk that lies may lose what it
has acknowledged. `remembers` has the files as a restarted server finds them.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from leash.ps.runs.disk import Bytes, ForcedFile, GrowingFile, OpenFile, unfinished

FULL: Final = "full"
LOST: Final = "lost"
TORN: Final = "torn"
FLIPPED: Final = "flipped"


class MemoryFile:
    """A file that is read: it stays as it was."""

    def __init__(self, content: bytes) -> None:
        self._content: Final = content

    @property
    def nbytes(self) -> int:
        return len(self._content)

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._content[offset : offset + nbytes]

    def close(self) -> None:
        """Does nothing."""


class MemoryLog:
    """A file to whose end one writes."""

    def __init__(self, disk: "MemoryDisk", path: Path) -> None:
        self._disk: Final = disk
        self._path: Final = path
        self._waiting: list[bytes] = []

    def write(self, piece: Bytes, /) -> object:
        self._waiting.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        self._disk.require_room()
        self._disk.files[self._path] += b"".join(self._waiting)
        self._waiting.clear()

    def force_soon(self) -> None:
        """Does nothing: the power never goes."""

    def close(self) -> None:
        self.flush()


class MemoryDisk:
    """Implements leash.ps.runs.disk.Disk, with the faults that it is told to have now."""

    def __init__(self, passes: Callable[[float], None]) -> None:
        """Args:
        passes: called with the seconds that an operation takes, of whoever waits for it.
        """
        self.on_kept: Callable[[Path], None] = lambda _: None  # hears of each file as it is written
        self.files: Final[dict[Path, bytes]] = {}
        self.written_ns: Final[dict[Path, int]] = {}
        self.slow_s: float = 0.0  # each file that is forced to the disk takes so long
        self.fault: str = ""
        self.place: float = 0.0  # where the fault spoils a file, from 0 to 1
        self._passes: Final = passes
        self._count = 0

    def require_room(self) -> None:
        """Raises OSError where the disk is full."""
        if self.fault == FULL:
            raise OSError(28, os.strerror(28))

    def replace(self, path: Path, pieces: Iterable[Bytes]) -> None:
        content = bytearray()
        for piece in pieces:
            content += piece
            if self.fault == FULL and len(content) > 100 * self.place:
                self.files[unfinished(path)] = bytes(content)
                self.require_room()
        if self.slow_s:
            self._passes(self.slow_s)
        self._keep(path, bytes(content))

    def _keep(self, path: Path, content: bytes) -> None:
        at = int(self.place * len(content))
        if self.fault == LOST and path in self.files:
            return
        if self.fault == TORN:
            content = content[:at]
        elif self.fault == FLIPPED and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
        self.files[path] = content
        self._count += 1
        self.written_ns[path] = self._count
        self.on_kept(path)

    def create(self, path: Path) -> GrowingFile:
        self.require_room()
        self.files[path] = b""
        return MemoryLog(self, path)

    def append(self, path: Path) -> ForcedFile:
        self.files.setdefault(path, b"")
        return MemoryLog(self, path)

    def rename(self, path: Path, to: Path) -> None:
        self.files[to] = self.files.pop(path)

    def open(self, path: Path) -> OpenFile:
        if path not in self.files:
            raise FileNotFoundError(2, os.strerror(2), str(path))
        return MemoryFile(self.files[path])

    @contextmanager
    def local_name(self, path: Path) -> Iterator[str]:
        if path not in self.files:
            yield str(path)
            return
        fd = os.memfd_create("leash-simulation", os.MFD_CLOEXEC)
        try:
            os.write(fd, self.files[path])
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def exists(self, path: Path) -> bool:
        return path in self.files or self.is_folder(path)

    def is_folder(self, path: Path) -> bool:
        return any(path in file.parents for file in self.files)

    def make_folder(self, folder: Path) -> None:
        """Does nothing: a file brings its folders."""

    def require_folder(self, option_flag: str, folder: Path) -> None:
        """Does nothing, likewise."""

    def files_in(self, folder: Path) -> list[tuple[Path, int]]:
        return [
            (path, self.written_ns.get(path, 0)) for path in self.files if path.parent == folder
        ]
