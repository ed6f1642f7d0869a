"""Files at a disk that may hang: whoever opens, reads, writes or removes one waits for a second.

Lines of logs and of the journal are written by threads. Whoever gives them waits until they are in
the file, but for HANG_S at most: a disk that does not answer, as one of a server of files that has
gone, counts as one that cannot be written, until it has taken what it was given.
"""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from leash.ps.runs.checkpoint_file import Bytes
from leash.ps.runs.disk import ForcedFile, GrowingFile, OpenFile

HANG_S: Final = 1.0  # so long one waits for a disk to take lines: less than before an eviction
HANGS: Final = "the disk does not answer"
THREAD_END_S: Final = 0.5  # so long for the end of a thread that nobody needs; it may hang


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
