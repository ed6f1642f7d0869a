"""Writes events.jsonl, and follows it. The file records what happens in a run, one event a line.

    {"t": 12.081, "event": "step", "worker": 2, "step": 40, "lag": 1, "staleness": 3}

`t` is seconds since the server began to listen. The events of steps are those of chunk 0, the
last to be sent of every step: a "push" when it is counted, a "step" when its reply goes out. With
`--step-events 1` the file is a complete record, from which audit.py re-checks the bound. About
once a second a worker's own account is a "training" event: its loss, and the seconds that it
computed and waited so far. `leash report` (leash.ps.report) draws what the file tells.

While the file cannot be written, events wait in memory; where those that do not fit there are
missing, there is an "events_lost" event with their number.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from leash.ps.runs.disk import THIS_HOST, Disk
from leash.ps.runs.unwritten import OnTrouble, PatientFile

TAIL_PIECE_NBYTES: Final = 1 << 20

Event: TypeAlias = dict[str, Any]  # one line of the file


class EventLog:
    """Appends events to a file; without a path it forgets them."""

    def __init__(
        self,
        path: Path | None,
        now: Callable[[], float] = time.monotonic,
        disk: Disk = THIS_HOST,
        on_trouble: OnTrouble = lambda _, __: None,
    ) -> None:
        self._now: Final = now
        self._began_s: Final = now()
        self._file: PatientFile | None = None
        self._lost = 0  # once the file is closed
        if path is not None:
            self._file = PatientFile(path, disk, now, on_trouble, self._line_of_loss)

    @property
    def is_open(self) -> bool:
        """Whether events go to a file."""
        return self._file is not None

    @property
    def missing(self) -> int:
        """How many events are not in the file now."""
        return self._lost if self._file is None else self._file.missing

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None:
        """Appends one event, with the time: now, unless it was earlier."""
        if self._file is not None:
            self._file.write(self._line(event, at_s, details))

    def flush(self) -> None:
        """Has everything written so far reach the file, if that can be."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the file; later events are forgotten."""
        if self._file is not None:
            self._file.close()
            self._lost, self._file = self._file.lost, None

    def _line(self, event: str, at_s: float | None, details: dict[str, Any]) -> bytes:
        seconds = (self._now() if at_s is None else at_s) - self._began_s
        row = {"t": round(seconds, 6), "event": event, **details}
        return json.dumps(row, allow_nan=False).encode() + b"\n"

    def _line_of_loss(self, events: int) -> bytes:
        return self._line("events_lost", None, {"events": events})


class EventTail:
    """Follows the file while another process writes it: reads the whole lines that are new.

    Attributes:
        offset: of the first byte that it has not read as part of a whole line.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, which may be renamed from then on. Raises OSError.

        Args:
            path: of events.jsonl.
        """
        self.offset: int = 0
        self._file: Final[BinaryIO] = path.open("rb")
        self._rest = b""

    def piece(self) -> bytes:
        """The next whole lines, of a megabyte or so; empty if there are no more. Raises OSError."""
        found = b""
        while not found and (read := self._file.read(TAIL_PIECE_NBYTES)):
            lines, end, self._rest = (self._rest + read).rpartition(b"\n")
            found = lines + end
        self.offset += len(found)
        return found

    def lines(self) -> list[tuple[int, bytes]]:
        """The same line by line, each with the offset of its end in the file. Raises OSError."""
        end = self.offset
        found: list[tuple[int, bytes]] = []
        for line in self.piece().split(b"\n")[:-1]:
            end += len(line) + 1
            found.append((end, line))
        return found

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._file.fileno()

    def close(self) -> None:
        """Lets the file go."""
        self._file.close()
