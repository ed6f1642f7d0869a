"""Shows how a run stands while it goes on: as a live table, or line by line without a terminal."""

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from leash.ps.commands.run_table import RunState, epoch_of, plain_line, run_table

_LOG: Final = logging.getLogger(__name__)
LINE_S: Final = 10.0  # a line of progress comes at least this often
EPOCH_LINE_S: Final = 2.0  # lines of short epochs come no more often than this


class Screen:
    """Prints lines: one for a new epoch, though not for each of many short ones.

    When nothing changes, it prints one every ten seconds.
    """

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console: Final = console
        self._now: Final = now
        self._shown = ""  # what the newest line said
        self._line_s = 0.0  # when it said so
        self._had_started = False

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        pass

    def show(self, state: RunState) -> None:
        """Shows how the run stands now."""
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
    """The part of a state that is worth a line when it changes: once started, the epoch."""
    return epoch_of(state) if state["started"] else plain_line(state)


class LiveScreen(Screen):
    """Draws a table over itself again and again; lines that stay go above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        # `show` draws, in its caller's thread; no thread of rich's own is needed.
        self._live: Final = Live(console=console, auto_refresh=False)
        self._has_shown = False

    def __enter__(self) -> "LiveScreen":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._live.stop()
        if self._has_shown:  # apart from what is said below
            self._console.print()

    def show(self, state: RunState) -> None:
        self._has_shown = True
        self._live.update(Group(Text(), run_table(state)), refresh=True)  # and from what is above


def screen_for(console: Console) -> Screen:
    """Chooses the screen for a console: a live table on a terminal, otherwise lines."""
    return LiveScreen(console) if console.is_terminal else Screen(console)
