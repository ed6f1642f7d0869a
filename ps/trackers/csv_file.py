"""metrics.csv: a line for each number of a run, for spreadsheets and pandas.

::

    time,name,worker,counts,step,value
    2026-11-27T08:53:47.123Z,test/accuracy,,epoch,3,0.9125
    2026-11-27T08:53:48.004Z,val/loss,2,step,120,0.3145

`worker` is empty where the number is the run's; `counts` says what `step` counts.
"""

import csv
import io
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from leash.ps.trackers.curves import Point

CSV_NAME: Final = "metrics.csv"
COLUMNS: Final = ("time", "name", "worker", "counts", "step", "value")


class CsvFile:
    """Appends to metrics.csv. Implements leash.ps.trackers.feed.Tracker."""

    def __init__(self, folder: Path) -> None:
        """Opens the file, and begins it with its header if it is new. Raises OSError.

        Args:
            folder: the run's.
        """
        self._file: Final = (folder / CSV_NAME).open("a+b", buffering=0)
        nbytes = self._file.seek(0, os.SEEK_END)
        if not nbytes:
            self._append([COLUMNS])
        elif os.pread(self._file.fileno(), 1, nbytes - 1) != b"\n":
            self._file.write(b"\n")  # its last line was cut, as a full disk does

    def write(self, points: Sequence[Point]) -> None:
        """Appends a line for each of these points. Raises OSError."""
        self._append([
            (_utc(p.wall_s), p.name, p.worker or "", p.counts, p.step, repr(p.value))
            for p in points
        ])  # fmt: skip

    def close(self) -> None:
        """Lets the file go."""
        self._file.close()

    def _append(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        rest = text.getvalue().encode()
        while rest:
            rest = rest[self._file.write(rest) or 0 :]


def _utc(wall_s: float) -> str:
    when = datetime.fromtimestamp(wall_s, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
