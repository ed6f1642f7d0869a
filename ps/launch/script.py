"""A script of the user's own under `leash launch`: starts its copies, and relays what they print.

Each copy is a plain `python SCRIPT ARGUMENTS`, with a few variables in its environment by which
PSOptimizer finds its place in the run. What it prints goes to its log, and from there, line by
line, to the screen.
"""

import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final

from leash.ps.options.base import flag
from leash.ps.options.launch import OF_THE_OWN_LOOP, LaunchOptions
from leash.ps.processes import (
    GRACE_VARIABLE,
    PATIENCE_VARIABLE,
    PREEMPT_FILE_VARIABLE,
    RANK_VARIABLE,
    SERVER_VARIABLE,
    WORKERS_VARIABLE,
    Process,
    spawn_script,
)
from leash.ps.words import KEY_VARIABLE, is_good_end

STOPPING: Final = "StoppingError: "  # begins the end of a script that catches nothing
NEVER_JOINED: Final = (
    "ended before the run began: let the script make a leash.PSOptimizer, without server= and rank="
)


def variables_of_copy(options: LaunchOptions, rank: int, address: str) -> dict[str, str]:
    """By what a copy of the script finds its place: variables of its environment, with values.

    Args:
        options: of the launch.
        rank: of the worker.
        address: of the server.
    """
    return {
        SERVER_VARIABLE: address, RANK_VARIABLE: str(rank), WORKERS_VARIABLE: str(options.workers),
        PATIENCE_VARIABLE: str(options.patience), GRACE_VARIABLE: str(options.grace_s),
    }  # fmt: skip


def words_for_script(options: LaunchOptions) -> list[str]:
    """The words behind the script's name that are options of the launch as well.

    They are the script's, which may not be what was meant. Those that a script decides in any case,
    such as its batch size, are left out.

    Args:
        options: of the launch; without a script there are none.
    """
    flags = {flag(field.name) for field in fields(options) if field.name not in OF_THE_OWN_LOOP}
    return [name for word in shlex.split(options.script or "")[1:]
            if (name := word.partition("=")[0]) in flags]  # fmt: skip


def start_copy(
    options: LaunchOptions, rank: int, address: str, log: Path, key: str | None = None
) -> Process:
    """Starts the copy of the script that is to be this worker.

    Args:
        options: of the launch; they have a script.
        rank: of the worker.
        address: of the server.
        log: where the copy's output goes.
        key: the file of the worker's key; None without keys.
    """
    assert options.script is not None
    place = variables_of_copy(options, rank, address)
    if options.preempt_file is not None:
        place[PREEMPT_FILE_VARIABLE] = str(Path(options.preempt_file).resolve())
    if key is not None:
        place[KEY_VARIABLE] = str(Path(key).resolve())
    with log.open("wb") as output:
        return spawn_script(
            shlex.split(options.script), output, threads=options.threads, variables=place
        )


def is_told_of_a_good_end(words: str) -> bool:
    """Whether a script has ended with the error by which it was told of a good end of the run.

    Args:
        words: its last line.
    """
    _, told, reason = words.partition(STOPPING)
    return bool(told) and is_good_end(reason)


class LogTail:
    """Reads what a process adds to its log, line by line."""

    def __init__(self, log: Path) -> None:
        """Begins at the start of the log, which need not be there yet."""
        self._log: Final = log
        self._read = 0  # how many bytes were read and given out as lines

    def new_lines(self, *, ended: bool) -> Iterator[str]:
        """Gives the lines that have been completed since the last call.

        Args:
            ended: the process writes no more, so that what is left is a line too.
        """
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n") and not ended:
                    return
                self._read += len(line)
                yield as_shown(line.decode(errors="replace"))


def as_shown(line: str) -> str:
    """What a terminal would show of a line at last: a carriage return begins it again."""
    return line.rstrip("\r\n").rpartition("\r")[2]
