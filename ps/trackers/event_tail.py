"""Follows a file of events that another process writes."""

import json
from pathlib import Path
from typing import Any, Final

READ_NBYTES: Final = 1 << 20


class EventTail:
    """Reads the whole lines that have come since it looked last.

    Attributes:
        offset: of the first byte that it has not read as part of a whole line.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, which may be renamed from then on. Raises OSError.

        Args:
            path: of events.jsonl.
        """
        self.offset: int = 0
        self._file: Final = path.open("rb")
        self._rest = b""

    def read(self) -> list[tuple[int, dict[str, Any]]]:
        """The next events, of a megabyte at most; none if there are no more. Raises OSError.

        Returns:
            Each with the offset of its end.
        """
        piece = self._file.read(READ_NBYTES)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            self.offset += len(line) + 1
            events.append((self.offset, json.loads(line)))
        return events

    def close(self) -> None:
        """Lets the file go."""
        self._file.close()
