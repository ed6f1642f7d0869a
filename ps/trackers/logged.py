"""The server's side of `PSOptimizer.log`: it counts each row once, and no more than fit a run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from leash.ps.trackers.rows import NAMES_MAX, in_json, unpack_rows
from leash.ps.wire.messages import Log

ROWS_PER_S: Final = 256.0  # of one worker, which sends half of that at most
ROWS_AT_ONCE: Final = 2048  # what one may send that was silent for long
SHOWN_MAX_NBYTES: Final = 1 << 17  # of what was logged, in one `state`


class Events(Protocol):
    """Takes what is worth an event; leash.ps.runs.events.EventLog is one."""

    def write(self, event: str, at_s: float | None = None, **details: Any) -> None: ...


@dataclass(slots=True)
class _Logger:
    """What is known of one worker that logs."""

    allowance: float  # rows that are taken now
    looked_s: float  # when it had these
    process: int = 0  # which process has logged last
    number: int = 0  # of its newest row
    newest: dict[str, float] = field(default_factory=dict)


class Logged:
    """Takes rows, writes them as events, and keeps the newest number of each name."""

    def __init__(self, events: Events, now: Callable[[], float] = time.monotonic) -> None:
        """Begins with nothing logged.

        Args:
            events: of the run.
            now: seconds on a clock that never goes back.
        """
        self._events: Final = events
        self._now: Final = now
        self._loggers: Final[dict[int, _Logger]] = {}  # by rank

    def take(self, msg: Log, payload: bytes) -> bool:
        """Takes the rows of a message that it has not had before; tells if there are any.

        Args:
            msg: of a worker that takes part, or has.
            payload: its rows.

        Raises:
            HeaderError: the payload holds anything else.
        """
        rows = unpack_rows(payload)
        logger = self._loggers.setdefault(msg.worker, _Logger(ROWS_AT_ONCE, self._now()))
        if logger.process != msg.process:
            logger.process, logger.number = msg.process, 0
        new = rows[max(0, logger.number + 1 - msg.first) :]
        if not new:
            return False
        logger.number = msg.first + len(rows) - 1
        taken = new[: self._allowed(logger, len(new))]
        for step, metrics in taken:
            told = {name: in_json(value) for name, value in metrics.items()}
            self._events.write("logged", worker=msg.worker, step=step, metrics=told)
            _keep_newest(logger.newest, metrics)
        if lost := msg.lost + len(new) - len(taken):
            self._events.write("logged_lost", worker=msg.worker, rows=lost)
        return True

    def newest_of(self, worker: int) -> dict[str, float]:
        """The newest number of each name that this rank has logged; at most `NAMES_MAX` of them."""
        logger = self._loggers.get(worker)
        return {} if logger is None else dict(logger.newest)

    def _allowed(self, logger: _Logger, wanted: int) -> int:
        now_s = self._now()
        earned = (now_s - logger.looked_s) * ROWS_PER_S
        logger.looked_s = now_s
        logger.allowance = min(float(ROWS_AT_ONCE), logger.allowance + earned)
        allowed = min(wanted, int(logger.allowance))
        logger.allowance -= allowed
        return allowed


def _keep_newest(newest: dict[str, float], metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        newest.pop(name, None)
        newest[name] = value
    while len(newest) > NAMES_MAX:
        del newest[next(iter(newest))]


def fit_logged(rows: list[dict[str, Any]]) -> None:
    """Leaves out what the last workers logged, where all of it would be too much for a message.

    Args:
        rows: of the table in `state`.
    """
    room = SHOWN_MAX_NBYTES
    for row in rows:
        room -= sum(len(name.encode()) + 12 for name in row["logged"])
        if room < 0:
            row["logged"] = {}
