"""Where a running command shows how the run stands: a live table, or lines where there is none."""

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from leash.ps.commands.run_table import RunState, epoch_of, plain_line, run_table

_LOG: Final = logging.getLogger(__name__)
LINE_S: Final = 10.0  # between two lines of progress when nothing else changes
EPOCH_LINE_S: Final = 2.0  # between those of two epochs


class Screen:
    """Lines on stdout: one for a new epoch, though not for each of many short ones, and one every
    ten seconds."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console: Final = console
        self._now: Final = now
        self._shown = ""  # the news of the newest line, and
        self._line_s = 0.0  # when it was written
        self._had_started = False

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        pass

    def show(self, state: RunState) -> None:
        """How the run stands now."""
        news, since_s = _news(state), self._now() - self._line_s
        is_due = since_s >= EPOCH_LINE_S or not state["started"] or not self._had_started
        if (news != self._shown and is_due) or since_s >= LINE_S:
            self._shown, self._line_s, self._had_started = news, self._now(), state["started"]
            self.say(plain_line(state))

    def say(self, line: str) -> None:
        """Shows a line that stays, and logs it."""
        _LOG.info("%s", line)
        self._console.print(Text(line), soft_wrap=True)


def _news(state: RunState) -> str:
    """What is worth a line when it changes: before the start anything, then the epoch."""
    return epoch_of(state) if state["started"] else plain_line(state)


class LiveScreen(Screen):
    """A table that is drawn over itself; lines that stay go above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        # Drawn when there is something new, by the thread that has it: no other thread is needed.
        self._live: Final = Live(console=console, auto_refresh=False)

    def __enter__(self) -> "LiveScreen":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._live.stop()

    def show(self, state: RunState) -> None:
        self._live.update(run_table(state), refresh=True)


def screen_for(console: Console) -> Screen:
    """The screen that fits a console."""
    return LiveScreen(console) if console.is_terminal else Screen(console)
