"""A worker that is told to go: by a signal, by `leash leave`, or by a file that somebody makes.

It finishes the step that it is in, pushes what is pending, gives its lease back and leaves. For
that it has its grace. After it, it leaves wherever it is.

::

    told ─▸ end of the step ─▸ pending steps are pushed ─▸ bye
        └── grace_s later, or while the server is silent ─▸ bye at once
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from leash.ps.interrupt import ToldToLeave, hand_termination_to
from leash.ps.options.worker import LEAVE_GRACE_S

LAST_S: Final = 1.0  # beyond its grace, what waits for the server has so long to say bye
FILE_LOOK_S: Final = 0.25  # a file is looked for no more often
BY_FILE: Final = "preempted"  # what a worker says that found its file


def end_process() -> None:
    """Ends this process as SIGTERM does, since its grace is over."""
    hand_termination_to(None)
    os.kill(os.getpid(), signal.SIGTERM)


class Departure:
    """Knows whether this worker was told to go, by whom, and whether its grace is over.

    Any thread may tell it, and look.

    Attributes:
        why: who has told it, in a word; empty while nobody has.
        has_gone: whether it has left because of that, and not because its work was done.
    """

    def __init__(
        self, grace_s: float = LEAVE_GRACE_S, preempt_file: str | os.PathLike[str] | None = None,
        now: Callable[[], float] = time.monotonic, end: Callable[[], None] = end_process,
    ) -> None:  # fmt: skip
        """Nobody has told it yet.

        Args:
            grace_s: how long it may take.
            preempt_file: this worker is to go once a file is there; None for none.
            now: seconds on a clock that never goes back.
            end: ends the process if it has not left some time after its grace.
        """
        self.why: str = ""
        self.has_gone: bool = False
        self._grace_s: Final = grace_s
        self._file: Final = None if preempt_file is None else Path(preempt_file)
        self._now: Final = now
        self._end: Final = end
        self._look_at_s = 0.0
        self._until_s = 0.0
        self._lock: Final = threading.Lock()
        self._timer: threading.Timer | None = None
        self._is_over = False

    def tell(self, why: str) -> None:
        """Tells it to go. What comes first counts.

        Args:
            why: who says so, in a word.
        """
        with self._lock:
            if self.why or self._is_over:
                return
            self._until_s = self._now() + self._grace_s
            self.why = why
            self._timer = threading.Timer(self._grace_s + LAST_S, self._end)
            self._timer.daemon = True
            self._timer.start()

    def look(self) -> bool:
        """Looks for the file now and then; returns whether this worker was told to go."""
        if self._file is not None and not self.why and self._now() >= self._look_at_s:
            self._look_at_s = self._now() + FILE_LOOK_S
            if self._file.exists():
                self.tell(BY_FILE)
        return bool(self.why)

    @property
    def is_overdue(self) -> bool:
        """Whether it was told to go, and its grace is over."""
        return bool(self.why) and self._now() >= self._until_s

    def go(self) -> None:
        """Ends this worker's part. Raises ToldToLeave."""
        self.has_gone = True
        raise ToldToLeave(self.why)

    def is_done(self) -> None:
        """Hears that this worker has left, so that nothing ends the process any more."""
        with self._lock:
            self._is_over = True
            if self._timer is not None:
                self._timer.cancel()


class TerminationNotice:
    """Tells a worker of the first SIGTERM. The next one ends the process, as ever."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Takes SIGTERM, if this is the main thread and nobody else has taken it.

        Args:
            tell: takes the name of the signal.
        """
        self._tell: Final = tell
        self._process: Final = os.getpid()
        is_free = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        self._is_taken = is_free and threading.current_thread() is threading.main_thread()
        if self._is_taken:
            signal.signal(signal.SIGTERM, self._on_signal)

    def give_back(self) -> None:
        """Lets SIGTERM do what it does by default, unless somebody else has taken it since."""
        if not self._is_taken or threading.current_thread() is not threading.main_thread():
            return
        self._is_taken = False
        if signal.getsignal(signal.SIGTERM) == self._on_signal:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.give_back()
        if os.getpid() == self._process:
            self._tell(signal.Signals(number).name)
        else:  # a process that was forked from the worker's is none
            os.kill(os.getpid(), number)
