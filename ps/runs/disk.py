"""The files of a run, as the rest of the server sees them: what it needs of a disk, and no more.

Checkpoints, config.yaml, summary.json and events.jsonl go through a `Disk`, so that a test can give
one that is full, slow or forgetful. Every method may raise OSError. What is durable when::

    replace   once it returns, the content has been forced to the disk. After a crash at any moment
              the name has the old file or the new one, whole. A power cut just after it may still
              bring back the old one, since the folder is not forced.
    create    what was written is in the file once `flush` or `close` returns. It then outlives this
              process, but not a power cut: nothing is forced to the disk. Each write that was
              flushed may be there or not, and the last one in part.
    append    the same, behind what is in the file; and `force_soon` has it forced to the disk.
    remove    seen at once by this host; a power cut may bring the file back.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeAlias

from leash.ps.options.base import make_folder

Bytes: TypeAlias = bytes | bytearray | memoryview


class OpenFile(Protocol):
    """A file that is read. It stays what it was when opened, whatever becomes of its name."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """Reads so many bytes from there; fewer at its end, none behind it."""
        ...

    def close(self) -> None:
        """Lets the file go."""
        ...


class GrowingFile(Protocol):
    """A file to whose end one writes."""

    def write(self, piece: Bytes, /) -> object:
        """Appends a piece, which may stay in this process until `flush`."""
        ...

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        ...

    def close(self) -> None:
        """Flushes, and lets the file go."""
        ...


class ForcedFile(GrowingFile, Protocol):
    """A file to whose end one writes what is to outlive a power cut."""

    def force_soon(self) -> None:
        """Has all that was flushed forced to the disk; neither waits, nor says if it fails."""
        ...


class Disk(Protocol):
    """What a run needs of a disk; see the module for what is durable when."""

    def replace(self, path: Path, pieces: Iterable[Bytes]) -> None:
        """Puts a new file in the place of `path`, whole: it is written beside it, and then moved.

        If this fails, the old file stays, and what was written is left as `unfinished(path)`.

        Args:
            path: of the file; its folder is there.
            pieces: its content, which is taken piece by piece.
        """
        ...

    def create(self, path: Path) -> GrowingFile:
        """Opens an empty file to write to, in place of one that is there."""
        ...

    def append(self, path: Path) -> ForcedFile:
        """Opens a file to write to its end; an empty one where there is none."""
        ...

    def rename(self, path: Path, to: Path) -> None:
        """Gives a file or a folder another name, which no other has."""
        ...

    def open(self, path: Path) -> OpenFile:
        """Opens a file to read from. Raises FileNotFoundError if there is none."""
        ...

    def local_name(self, path: Path) -> AbstractContextManager[str]:
        """Gives a name by which a library can open this file, to read it.

        The name is valid in the context. Where the file is not there, the name is of none either.
        """
        ...

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there."""
        ...

    def exists(self, path: Path) -> bool:
        """Whether a file or a folder has this name."""
        ...

    def is_folder(self, path: Path) -> bool:
        """Whether a folder has this name."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Makes a folder and those above it, where they are not there."""
        ...

    def require_folder(self, option_flag: str, folder: Path) -> None:
        """Makes the folder of an option where it is not there, and sees that one can write to it.

        Raises:
            UsageError: it cannot be made, or this process may not write there.
        """
        ...

    def files_in(self, folder: Path) -> list[tuple[Path, int]]:
        """The files of a folder, each with the time at which it was written last, in nanoseconds.

        There are none where there is no such folder.
        """
        ...


def unfinished(path: Path) -> Path:
    """The name under which a file is written before it takes its place."""
    return path.with_name(path.name + ".unfinished")


class _HostFile:
    """An open file of this host."""

    def __init__(self, path: Path) -> None:
        self._fd: Final = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.nbytes: Final = os.fstat(self._fd).st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        return os.pread(self._fd, nbytes, offset)

    def close(self) -> None:
        os.close(self._fd)


class _HostJournal:
    """A file of this host that grows, and a thread that forces it to the disk."""

    def __init__(self, path: Path) -> None:
        self._file: Final = path.open("ab")
        self._is_due: Final = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None  # from the first `force_soon` on

    def write(self, piece: Bytes, /) -> object:
        return self._file.write(piece)

    def flush(self) -> None:
        self._file.flush()

    def force_soon(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._force, name="leash-journal", daemon=True)
            self._thread.start()
        self._is_due.set()

    def close(self) -> None:
        self._is_over = True
        self._is_due.set()
        if self._thread is not None:
            self._thread.join()
        self._file.close()

    def _force(self) -> None:
        while not self._is_over:
            self._is_due.wait()
            self._is_due.clear()
            with suppress(OSError):  # what was written stays, as long as there is power
                os.fsync(self._file.fileno())


class ThisHost:
    """The files of this host. Implements Disk."""

    def replace(self, path: Path, pieces: Iterable[Bytes]) -> None:
        with unfinished(path).open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        unfinished(path).replace(path)

    def create(self, path: Path) -> BinaryIO:
        return path.open("wb")

    def append(self, path: Path) -> ForcedFile:
        return _HostJournal(path)

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def open(self, path: Path) -> OpenFile:
        return _HostFile(path)

    def local_name(self, path: Path) -> AbstractContextManager[str]:
        return nullcontext(str(path))

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_folder(self, path: Path) -> bool:
        return path.is_dir()

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def require_folder(self, option_flag: str, folder: Path) -> None:
        make_folder(option_flag, folder)

    def files_in(self, folder: Path) -> list[tuple[Path, int]]:
        if not folder.is_dir():
            return []
        return [(path, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()]


THIS_HOST: Final = ThisHost()
