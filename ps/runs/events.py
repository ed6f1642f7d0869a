"""Writes events.jsonl, which records what happens in a run, one event a line.

    {"t": 12.081, "event": "step", "worker": 2, "step": 40, "lag": 1, "staleness": 3}

`t` is seconds since the server began to listen. The events of steps are those of chunk 0, the
last to be sent of every step: a "push" when it is counted, a "step" when its reply goes out. With
`--step-events 1` the file is a complete record, from which audit.py re-checks the bound. About
once a second a worker's own account is a "training" event: its loss, and the seconds that it
computed and waited so far. `leash report` (leash.ps.report) draws what the file tells.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from leash.ps.runs.disk import THIS_HOST, Disk, GrowingFile

Event: TypeAlias = dict[str, Any]  # one line of the file


class EventLog:
    """Appends events to a file; without a path it forgets them."""

    def __init__(
        self,
        path: Path | None,
        now: Callable[[], float] = time.monotonic,
        disk: Disk = THIS_HOST,
    ) -> None:
        self._now: Final = now
        self._began_s: Final = now()
        self._file: GrowingFile | None = disk.create(path) if path else None

    @property
    def is_open(self) -> bool:
        """Whether events go to a file."""
        return self._file is not None

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None:
        """Appends one event, with the time: now, unless it was earlier."""
        if self._file is not None:
            seconds = (self._now() if at_s is None else at_s) - self._began_s
            row = {"t": round(seconds, 6), "event": event, **details}
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def flush(self) -> None:
        """Has everything written so far reach the file."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the file; later events are forgotten."""
        if self._file is not None:
            self._file.close()
            self._file = None
