"""What cannot be written: who is told, and the lines that wait meanwhile.

`Unwritten` says once which file of a run cannot be written, and when it can be again. A
`PatientFile` keeps its lines in memory while their disk is full.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from leash.ps.runs.disk import Disk, GrowingFile

TRY_AGAIN_S: Final = 5.0  # after a failure, until the next attempt at a whole file
BUFFER_NBYTES: Final = 8192  # so much is collected before it is written
WAITING_NBYTES: Final = 4 << 20  # the most that waits for a disk; lines beyond that are lost
LINES_AGAIN_S: Final = 1.0  # between two attempts to write lines

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
            self._again_s = self._now() + LINES_AGAIN_S
            if not self._fails:
                self._fails = True
                self._on_trouble(self._path, error)
            return
        self._lines = 0
        if self._fails:
            self._fails = False
            self._on_trouble(self._path, None)


@dataclass(slots=True)
class _Trouble:
    """What is known of a file that could not be written."""

    why: str
    times: int = 0  # how often that was tried in vain
    lasts: bool = True


class Unwritten:
    """The files of one run that could not be written."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Begins with none.

        Args:
            say: shows a line.
        """
        self._say: Final = say
        self._troubles: Final[dict[str, _Trouble]] = {}

    def fail(self, name: str, error: OSError | MemoryError | str) -> None:
        """Notes that a file could not be written; says so unless the same was said last."""
        why = why_of(error)
        known = self._troubles.get(name)
        is_news = known is None or not known.lasts or known.why != why
        trouble = self._troubles.setdefault(name, _Trouble(why))
        trouble.why, trouble.lasts, trouble.times = why, True, trouble.times + 1
        if is_news:
            self._say(
                f"WARNING: cannot write {name}: {why}; the run goes on, keeps what was written "
                "before, and tries again"
            )

    def done(self, name: str) -> None:
        """Notes that a file was written; says so if it could not be before."""
        trouble = self._troubles.get(name)
        if trouble is not None and trouble.lasts:
            trouble.lasts = False
            self._say(f"can write {name} again")

    def note(self, path: Path, error: OSError | None) -> None:
        """Notes that a file could not be written, or without an error that it was."""
        if error is None:
            self.done(path.name)
        else:
            self.fail(path.name, error)

    @property
    def lasting(self) -> list[str]:
        """A clause for each file that cannot be written now."""
        return [f"{name}: {t.why}" for name, t in self._troubles.items() if t.lasts]

    def as_dict(self) -> dict[str, Any]:
        """The form in which summary.json has them: all that ever could not be written."""
        return {
            name: {"why": t.why, "times": t.times, "lasts": t.lasts}
            for name, t in self._troubles.items()
        }


def why_of(error: OSError | MemoryError | str) -> str:
    """Says in words why something could not be written."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "there is no memory"
