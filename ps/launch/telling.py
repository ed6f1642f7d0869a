"""Tells a program how its launch stands: a JSON object a line, to the descriptor of --state-fd.

::

    {"run_dir": "runs/20261127-085347-ssp"}    first
    {"state": {...}}                           about twice a second, and at the end
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from leash.ps.commands.live_screen import Screen
from leash.ps.commands.run_table import RunState
from leash.ps.words import for_json


class TellingScreen(Screen):
    """Prints lines, and tells a program each state; one that does not read misses some."""

    def __init__(self, console: Console, fd: int, run_dir: Path) -> None:
        """Tells where the run leaves its files.

        Args:
            console: for the lines.
            fd: where the program reads.
            run_dir: of the run.
        """
        super().__init__(console)
        self._fd: Final = fd
        self._rest = b""  # of an object that the program has in part
        os.set_blocking(fd, False)
        self._tell({"run_dir": str(run_dir)})

    def show(self, state: RunState) -> None:
        super().show(state)
        self._tell({"state": for_json(state)})

    def _tell(self, what: dict[str, Any]) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            if self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            if not self._rest:
                line = json.dumps(what).encode() + b"\n"
                self._rest = line[os.write(self._fd, line) :]
