"""Where a running command shows how the run stands: a live table, or lines where there is none."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ps.table import State, epoch_of, plain_line, run_table

LINE_S: Final = 10.0  # between two lines of progress when nothing else changes


class Screen:
    """Lines on stdout: one when the epoch changes, and one every ten seconds."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console: Final = console
        self._now: Final = now
        self._shown = ""
        self._next_line_s = 0.0

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        pass

    def show(self, state: State) -> None:
        """How the run stands now."""
        # Before the start every change is news; afterwards, every epoch.
        news = epoch_of(state) if state["started"] else plain_line(state)
        if news != self._shown or self._now() >= self._next_line_s:
            self._shown, self._next_line_s = news, self._now() + LINE_S
            self.say(plain_line(state))

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(Text(line), soft_wrap=True)


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

    def show(self, state: State) -> None:
        self._live.update(run_table(state), refresh=True)


def screen_for(console: Console) -> Screen:
    """The screen that fits a console."""
    return LiveScreen(console) if console.is_terminal else Screen(console)
