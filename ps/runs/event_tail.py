"""Follows a file of lines that another process writes, such as events.jsonl."""

from pathlib import Path
from typing import BinaryIO, Final

LINES_NBYTES: Final = 1 << 20


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
        self._file: Final[BinaryIO] = path.open("rb")
        self._rest = b""

    def lines(self) -> list[tuple[int, bytes]]:
        """The next lines, of a megabyte at most; none if there are no more. Raises OSError.

        Returns:
            Each with the offset of its end. An empty list means that no whole line has come.
        """
        found: list[tuple[int, bytes]] = []
        while not found and (piece := self._file.read(LINES_NBYTES)):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self.offset += len(line) + 1
                found.append((self.offset, line))
        return found

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._file.fileno()

    def close(self) -> None:
        """Lets the file go."""
        self._file.close()
