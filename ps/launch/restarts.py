"""Decides whether `leash launch` starts a server again that has ended, and words what it does."""

import signal
from typing import Final

from leash.ps.interrupt import SIGNALS
from leash.ps.processes import ASKED_TO_END
from leash.ps.words import DONE, FAILED

WRONG_ARGUMENT: Final = 2


class Restarts:
    """Counts how often a server was started again.

    Attributes:
        count: how often that was.
    """

    def __init__(self, limit: int) -> None:
        """Begins with none.

        Args:
            limit: how often it may be.
        """
        self.count: int = 0
        self._limit: Final = limit

    def is_due(self, status: int, ended: str | None) -> bool:
        """Whether a server that has ended like this is to be started once more.

        Args:
            status: its exit status, below 0 if a signal has killed it.
            ended: the word with which its run has ended, by its summary.json; None without one.
        """
        return self.count < self._limit and has_crashed(status, ended)

    def note(self, status: int, words: str) -> str:
        """Counts one more; gives the line that says why.

        Args:
            status: of the server that has ended.
            words: its last line.
        """
        self.count += 1
        how = f"was killed ({signal_name(-status)})" if status < 0 else f"failed: {words}"
        return f"the server {how}; started again, {self.count} of {self._limit}"


def has_crashed(status: int, ended: str | None) -> bool:
    """Whether a server has ended that nobody asked to, and that has not come to an end of its run.

    Args:
        status: its exit status, below 0 if a signal has killed it.
        ended: the word with which its run has ended, by its summary.json; None without one.
    """
    if status < 0:
        return -status not in SIGNALS and ended != DONE
    return status not in (0, WRONG_ARGUMENT, *ASKED_TO_END) and ended in (None, FAILED)


def signal_name(number: int) -> str:
    """The name of a signal: ``9`` ▸ ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"
