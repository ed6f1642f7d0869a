"""The rows that a loop has logged and the server does not have yet. It has no socket or clock."""

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from leash.ps.trackers.rows import ROWS_MAX, ROWS_MAX_NBYTES, joined_rows, pack_row
from leash.ps.wire.messages import Log
from leash.ps.wire.requester import AT_ONCE_S, NEVER_S

LOG_S: Final = 0.5  # between two messages, so that a worker sends at most 128 rows a second
WAITING_MAX: Final = 1024  # rows that wait; those beyond are left out


class LogQueue:
    """Numbers rows, and gives them out again until the server has them.

    One thread adds rows, another sends them. It outlives an incarnation: the server goes by the
    numbers, and counts no row twice.
    """

    def __init__(self, draw: Callable[[], int]) -> None:
        """Begins empty.

        Args:
            draw: draws the number of this process, once it logs anything.
        """
        self._draw: Final = draw
        self._process = 0
        self._rows: Final[deque[bytes]] = deque()
        self._first = 1  # the number of the first row here
        self._due_s = AT_ONCE_S
        self._left_out = 0  # rows in all
        self._told = 0  # of these, how many the server has heard of
        self._telling = 0  # and how many it will have, once it has the newest message

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Takes a row; False if too many wait, so that this one is left out.

        Args:
            step: to which it belongs.
            metrics: checked by `leash.ps.trackers.rows`.
        """
        if len(self._rows) >= WAITING_MAX:
            self._left_out += 1
            return False
        self._process = self._process or self._draw()
        self._rows.append(pack_row(step, metrics))
        return True

    @property
    def is_empty(self) -> bool:
        """Whether the server has all rows."""
        return not self._rows

    @property
    def due_s(self) -> float:
        """When the next message may go; never while there is none."""
        return NEVER_S if self.is_empty else self._due_s

    def next_message(self, worker: int, incarnation: int, now_s: float) -> tuple[Log, bytes, int]:
        """Makes the message that goes now, with its payload. REQUIRES: it is not empty.

        Args:
            worker: the rank.
            incarnation: from `welcome`.
            now_s: the time.

        Returns:
            The message, its payload, and the number after that of its last row.
        """
        self._due_s = now_s + LOG_S
        rows, nbytes = list[bytes](), 5  # of the array's header, at most
        for row in itertools.islice(self._rows, ROWS_MAX):
            nbytes += len(row)
            if nbytes > ROWS_MAX_NBYTES:
                break
            rows.append(row)
        lost, self._telling = self._left_out - self._told, self._left_out
        log = Log(worker, incarnation, self._process, self._first, lost)
        return log, joined_rows(rows), self._first + len(rows)

    def taken(self, end: int) -> None:
        """Forgets the rows before this number: the server has them.

        Args:
            end: as `next_message` has said. An answer to an earlier incarnation may come late.
        """
        while self._first < end:
            self._rows.popleft()
            self._first += 1
        self._told = self._telling
