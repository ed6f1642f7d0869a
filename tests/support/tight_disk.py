"""A disk that is full or read-only when a test says so."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from leash.ps.runs.checkpoint_file import Bytes, Plan
from leash.ps.runs.disk import EndedWriting, GrowingFile, OpenFile, ThisHost, Writing

NO_SPACE = "No space left on device"


class TightDisk(ThisHost):
    """A disk of this host, with room for so many bytes more.

    Attributes:
        room: for logs, in bytes; None for any number. At 0 nothing else can be written either.
        full: names of files for which there is no room.
        can_create: whether a log can be made.
        tries: how often a checkpoint was begun that has a name.
    """

    def __init__(self, room: int | None = None, full: Iterable[str] = ()) -> None:
        self.room = room
        self.full = set(full)
        self.can_create = True
        self.tries = 0

    def replace(self, path: Path, pieces: Iterable[Bytes]) -> None:
        self.require_room([path])
        super().replace(path, pieces)

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        self.tries += bool(paths)
        return _TightWriting(self, paths, super().begin(paths, plan, is_urgent=is_urgent))

    def begin_text(self, path: Path, content: bytes) -> Writing:
        try:
            self.require_room([path])
        except OSError as error:
            return EndedWriting(error)
        return super().begin_text(path, content)

    def create(self, path: Path) -> GrowingFile:
        if not self.can_create:
            raise OSError(30, "Read-only file system")
        return _TightFile(self, super().create(path))

    def require_room(self, paths: Sequence[Path]) -> None:
        if paths and (self.room == 0 or any(path.name in self.full for path in paths)):
            raise OSError(28, NO_SPACE)


class _TightFile:
    def __init__(self, disk: TightDisk, file: GrowingFile) -> None:
        self._disk, self._file = disk, file

    def write(self, piece: Bytes, /) -> int | None:
        room = self._disk.room
        if room == 0:
            raise OSError(28, NO_SPACE)
        if room is None:
            return self._file.write(piece)
        count = self._file.write(memoryview(piece)[:room]) or 0
        self._disk.room = room - count
        return count

    def close(self) -> None:
        self._file.close()


class _TightWriting:
    """Fails in the midst of the file where there is no room for it."""

    def __init__(self, disk: TightDisk, paths: Sequence[Path], writing: Writing) -> None:
        self._disk, self._paths, self._writing = disk, paths, writing
        self._failure: OSError | None = None

    @property
    def is_over(self) -> bool:
        return self._failure is not None or self._writing.is_over

    @property
    def failure(self) -> OSError | None:
        return self._failure or self._writing.failure

    def room(self, nbytes: int) -> memoryview | None:
        return None if self.is_over else self._writing.room(nbytes)

    def take(self, array: int, start: int, nbytes: int) -> None:
        self._writing.take(array, start, nbytes)
        try:
            self._disk.require_room(self._paths)
        except OSError as error:
            self._failure = error

    def finish(self) -> None:
        if self._failure is None:
            self._writing.finish()

    def open(self) -> OpenFile:
        return self._writing.open()

    def abandon(self) -> None:
        self._writing.abandon()
