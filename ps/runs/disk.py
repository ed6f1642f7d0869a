"""The files of a run, as the rest of the server sees them: what it needs of a disk, and no more.

Checkpoints, config.yaml, summary.json and events.jsonl go through a `Disk`, so that a test can give
one that is full, slow or forgetful. Every method may raise OSError. What is durable when::

    replace   once it returns, the content has been forced to the disk. After a crash at any moment
              the name has the old file or the new one, whole. A power cut just after it may still
              bring back the old one, since the folder is not forced.
    begin     once the writing is over without a failure, as after `replace`.
    create    what `write` has taken is in the file. It then outlives this process, but not a power
              cut: nothing is forced to the disk. Each write may be there or not, and the last one
              in part.
    append    the same, behind what is in the file; and `force_soon` has it forced to the disk.
    remove    seen at once by this host; a power cut may bring the file back.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol

from leash.ps.options.base import make_folder
from leash.ps.runs.checkpoint_file import (
    Bytes,
    CheckpointFile,
    HostFile,
    HostTarget,
    Plan,
    unfinished,
)

PART_NBYTES: Final = 256 * 1024  # a checkpoint that is being written takes at most so much at once

FORCED_S: Final = 5.0  # what was written last has so long to be forced to the disk

PRIVATE: Final = 0o700  # of a run directory that is made: no other user of the host may read it


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

    def write(self, piece: Bytes, /) -> int | None:
        """Appends the beginning of a piece, or all of it; says how many bytes."""
        ...

    def close(self) -> None:
        """Lets the file go."""
        ...


class Writing(Protocol):
    """A checkpoint that is being written. None of its methods waits for a disk, or raises OSError.

    ::

        while (place := writing.room(nbytes)) is not None:      None: for now, or it is over
            place[:] = ...
            writing.take(array, start, nbytes)
        writing.finish()
        writing.is_over                                         some time later
    """

    @property
    def is_over(self) -> bool:
        """Whether the file is in its place, or has failed."""
        ...

    @property
    def failure(self) -> OSError | None:
        """Why it has failed, once it has."""
        ...

    def room(self, nbytes: int) -> memoryview | None:
        """Gives memory for the next bytes, at most PART_NBYTES; None while there is none."""
        ...

    def take(self, array: int, start: int, nbytes: int) -> None:
        """Takes what was put there: see `CheckpointFile.write`."""
        ...

    def finish(self) -> None:
        """Says that all bytes were taken."""
        ...

    def open(self) -> OpenFile:
        """Opens the file. REQUIRES: it is over, and has not failed."""
        ...

    def abandon(self) -> None:
        """Lets go of it: unless the file is in its place, nothing stays of it."""
        ...


class ForcedFile(GrowingFile, Protocol):
    """A file to whose end one writes what is to outlive a power cut."""

    def flush(self) -> None:
        """Hands what was written to the operating system; what that does not take stays."""
        ...

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

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        """Begins to write a checkpoint, beside its place; it is moved there at the end.

        Args:
            paths: of the file, which gets all of these names; none for one in memory, which is
                gone when it is let go of. What could not be written is removed.
            plan: what it will hold.
            is_urgent: whether somebody waits for it; otherwise it gives way to everybody.
        """
        ...

    def begin_text(self, path: Path, content: bytes) -> Writing:
        """Begins to put a small file in the place of `path`, as `replace` does."""
        ...

    @property
    def descriptors(self) -> list[int]:
        """The file descriptors that become readable when a writing has come further."""
        ...

    def attend(self) -> None:
        """Takes what these descriptors tell."""
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

        One that is made is `PRIVATE`; one that is there stays as it is.

        Raises:
            UsageError: it cannot be made, or this process may not write there.
        """
        ...

    def files_in(self, folder: Path) -> list[tuple[Path, int]]:
        """The files of a folder, each with the time at which it was written last, in nanoseconds.

        There are none where there is no such folder.
        """
        ...


class EndedWriting:
    """One that is over from the beginning. Implements Writing."""

    is_over: bool = True

    def __init__(self, failure: OSError | None = None) -> None:
        """Begins and ends, with this failure or without one."""
        self.failure: OSError | None = failure

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def take(self, array: int, start: int, nbytes: int) -> None:
        """Takes nothing."""

    def finish(self) -> None:
        """Has nothing to finish."""

    def open(self) -> OpenFile:
        raise AssertionError("nobody reads it")

    def abandon(self) -> None:
        """Has nothing to let go of."""


class WritingNow:
    """Writes a checkpoint at once, in the thread of its caller. Implements Writing."""

    def __init__(self, paths: Sequence[Path], plan: Plan) -> None:
        """Opens the file.

        Args:
            paths: see `Disk.begin`.
            plan: likewise.
        """
        self.is_over: bool = False
        self.failure: OSError | None = None
        self._target: Final = HostTarget(paths)
        self._file: Final = CheckpointFile(plan, self._target)
        self._part: Final = memoryview(bytearray(PART_NBYTES))
        self._try(self._target.open)

    def room(self, nbytes: int) -> memoryview | None:
        return None if self.is_over else self._part[:nbytes]

    def take(self, array: int, start: int, nbytes: int) -> None:
        self._try(lambda: self._file.write(array, start, self._part[:nbytes]))

    def finish(self) -> None:
        def finish() -> None:
            self._file.finish()
            self._target.finish()

        self._try(finish)
        self.is_over = True

    def open(self) -> OpenFile:
        return self._target.reopen()

    def abandon(self) -> None:
        self._target.discard()

    def _try(self, act: Callable[[], None]) -> None:
        if self.failure is not None:
            return
        try:
            act()
        except OSError as error:
            self.failure, self.is_over = error, True
            self._target.discard()


class _HostJournal:
    """A file of this host that grows, and a thread that forces it to the disk."""

    def __init__(self, path: Path) -> None:
        self._file: Final = path.open("ab", buffering=0)
        self._is_due: Final = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None  # from the first `force_soon` on

    def write(self, piece: Bytes, /) -> int | None:
        return self._file.write(piece)

    def flush(self) -> None:
        """Does nothing: nothing stays in this process."""

    def force_soon(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._force, name="leash-journal", daemon=True)
            self._thread.start()
        self._is_due.set()

    def close(self) -> None:
        self._is_over = True
        self._is_due.set()
        if self._thread is not None:
            self._thread.join(FORCED_S)
        if self._thread is None or not self._thread.is_alive():  # one that hangs is left alone
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

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        return WritingNow(paths, plan)

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
        """Does nothing: a writing is over at once."""

    def create(self, path: Path) -> GrowingFile:
        return path.open("wb", buffering=0)

    def append(self, path: Path) -> ForcedFile:
        return _HostJournal(path)

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def open(self, path: Path) -> OpenFile:
        return HostFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

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
        make_folder(option_flag, folder, PRIVATE)

    def files_in(self, folder: Path) -> list[tuple[Path, int]]:
        if not folder.is_dir():
            return []
        return [(path, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()]


THIS_HOST: Final = ThisHost()
