"""A disk in memory that can be slow, full, and forget or spoil what was written.

The power never goes in a simulated run, but a process does; and a disk that lies may lose what it
has acknowledged. `remembers` has the files as a restarted server finds them.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from leash.ps.runs.checkpoint_file import Bytes, CheckpointFile, Plan, unfinished
from leash.ps.runs.disk import PART_NBYTES, EndedWriting, ForcedFile, GrowingFile, OpenFile, Writing

FULL: Final = "full"
LOST: Final = "lost"
TORN: Final = "torn"
FLIPPED: Final = "flipped"
PART_S: Final = 0.004  # a part of a checkpoint takes so long, in which workers go on


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

    def write(self, piece: Bytes, /) -> int:
        self._disk.require_room()
        self._disk.files[self._path] += piece
        return len(piece)

    def flush(self) -> None:
        """Does nothing."""

    def force_soon(self) -> None:
        """Does nothing: the power never goes."""

    def close(self) -> None:
        """Does nothing."""


class MemoryWriting:
    """A checkpoint that is being written while time passes. Implements leash.ps.runs.disk.Writing.

    A disk that is full says so in the midst of the file, or at its end.
    """

    def __init__(self, disk: "MemoryDisk", paths: Sequence[Path], plan: Plan) -> None:
        self.is_over: bool = False
        self.failure: OSError | None = None
        self._disk: Final = disk
        self._paths: Final = paths
        self._content: Final = bytearray()
        self._file: Final = CheckpointFile(plan, self)
        self._part: Final = memoryview(bytearray(PART_NBYTES))
        self._is_free = True

    def write_at(self, offset: int, piece: Bytes) -> None:
        """Writes a piece of the file."""
        self._content.extend(bytes(max(0, offset + len(piece) - len(self._content))))
        self._content[offset : offset + len(piece)] = piece

    def room(self, nbytes: int) -> memoryview | None:
        return self._part[:nbytes] if self._is_free and not self.is_over else None

    def take(self, array: int, start: int, nbytes: int) -> None:
        self._file.write(array, start, self._part[:nbytes])
        self._is_free = False
        self._disk.after(PART_S, self._on_part, None)

    def _on_part(self, _: None) -> None:
        self._is_free = True
        if len(self._content) > 100 * self._disk.place:
            self._look_for_room()
        self._disk.on_progress()

    def finish(self) -> None:
        self._disk.after(PART_S + self._disk.slow_s, self._on_end, None)

    def _on_end(self, _: None) -> None:
        self._look_for_room()
        if self.is_over:
            return
        self._file.finish()
        self.is_over = True
        for path in self._paths:
            self._disk.keep(path, bytes(self._content))
        self._disk.on_progress()

    def _look_for_room(self) -> None:
        if self._paths and self._disk.fault == FULL and not self.is_over:
            self.is_over, self.failure = True, OSError(28, os.strerror(28))

    def open(self) -> OpenFile:
        return self._disk.open(self._paths[-1]) if self._paths else MemoryFile(bytes(self._content))

    def abandon(self) -> None:
        self.is_over = True


class MemoryDisk:
    """Implements leash.ps.runs.disk.Disk, with the faults that it is told to have now."""

    def __init__(
        self, passes: Callable[[float], None],
        after: Callable[[float, Callable[[Any], None], Any], None],
    ) -> None:  # fmt: skip
        """Args:
        passes: called with the seconds that an operation takes, of whoever waits for it.
        after: has something happen on this host after so many seconds.
        """
        self.after: Final = after
        # These hear of each file as it is written, of a checkpoint that is begun, and that it has
        # come further.
        self.on_kept: Callable[[Path], None] = lambda _: None
        self.on_begun: Callable[[Sequence[Path]], None] = lambda _: None
        self.on_progress: Callable[[], None] = lambda: None
        self.files: Final[dict[Path, bytes]] = {}
        self.written_ns: Final[dict[Path, int]] = {}
        self.slow_s: float = 0.0  # each file that is forced to the disk takes so long
        self.fault: str = ""
        self.was_full = False  # whether anything could not be written for that
        self.place: float = 0.0  # where the fault spoils a file, from 0 to 1
        self._passes: Final = passes
        self._count = 0

    def require_room(self) -> None:
        """Raises OSError where the disk is full."""
        if self.fault == FULL:
            self.was_full = True
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
        self.keep(path, bytes(content))

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        self.on_begun(paths)
        return MemoryWriting(self, paths, plan)

    def begin_text(self, path: Path, content: bytes) -> Writing:
        try:
            self.replace(path, [content])
        except OSError as error:
            return EndedWriting(error)
        return EndedWriting()

    @property
    def descriptors(self) -> list[int]:
        return []

    def attend(self) -> None:
        """Does nothing: `on_progress` says that there is news."""

    def keep(self, path: Path, content: bytes) -> None:
        """Puts a file in its place, or spoils it."""
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
