"""A file to whose end one writes, also while its disk is full: then lines wait in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from leash.ps.runs.disk import Disk, GrowingFile

BUFFER_NBYTES: Final = 8192  # so much is collected before it is written
WAITING_NBYTES: Final = 4 << 20  # the most that waits for a disk; lines beyond that are lost
AGAIN_S: Final = 1.0  # between two attempts

# Hears that a file cannot be written, and why; with None that it can be again.
OnTrouble: TypeAlias = Callable[[Path, OSError | None], None]


class PatientFile:
    """Appends lines to a file. It never raises OSError.

    Attributes:
        lost: how many lines will never be in the file.
    """

    def __init__(
        self,
        path: Path,
        disk: Disk,
        now: Callable[[], float],
        on_trouble: OnTrouble,
        line_of_loss: Callable[[int], bytes] = lambda _: b"",
    ) -> None:
        """Opens an empty file.

        Args:
            path: of the file.
            disk: where it is.
            now: seconds on a clock that never goes back.
            on_trouble: hears of the first failure, and of the end of it.
            line_of_loss: makes the line that stands for so many lines that were lost.
        """
        self.lost: int = 0
        self._path: Final = path
        self._disk: Final = disk
        self._now: Final = now
        self._on_trouble: Final = on_trouble
        self._line_of_loss: Final = line_of_loss
        self._file: GrowingFile | None = None
        self._waiting = bytearray()
        self._lines = 0  # that wait
        self._untold = 0  # lines that were lost since the last that was not
        self._fails = False
        self._again_s = 0.0
        self._try_to_write()

    def write(self, line: bytes) -> None:
        """Appends a line."""
        if not self._has_room(len(line)):
            self.lost, self._untold = self.lost + 1, self._untold + 1
            return
        if self._untold:
            self._waiting += self._line_of_loss(self._untold)
            self._untold = 0
        self._waiting += line
        self._lines += 1
        if len(self._waiting) >= BUFFER_NBYTES:
            self._write_in_time()

    def flush(self) -> None:
        """Writes what waits, if that can be."""
        self._write_in_time()

    def close(self) -> None:
        """Writes what waits, or counts it as lost, and lets the file go."""
        self._try_to_write()
        if self._waiting:
            self.lost += self._lines
            self._waiting.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def missing(self) -> int:
        """How many lines are not in the file now: those that were lost, and those that wait."""
        return self.lost + (self._lines if self._waiting else 0)

    def _has_room(self, nbytes: int) -> bool:
        if len(self._waiting) + nbytes > WAITING_NBYTES:
            self._write_in_time()
        return len(self._waiting) + nbytes <= WAITING_NBYTES

    def _write_in_time(self) -> None:
        if not self._fails or self._now() >= self._again_s:
            self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            if self._file is None:
                self._file = self._disk.create(self._path)
            while self._waiting:
                count = self._file.write(self._waiting)
                del self._waiting[: count or 0]
        except OSError as error:
            self._again_s = self._now() + AGAIN_S
            if not self._fails:
                self._fails = True
                self._on_trouble(self._path, error)
            return
        self._lines = 0
        if self._fails:
            self._fails = False
            self._on_trouble(self._path, None)
