"""Processes that Leash starts: spawned, never forked, and never left behind."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, Final

from leash.ps import interrupt

Process = subprocess.Popen[bytes]

# First in a program for `python -c`. Otherwise Python searches the working directory first, and
# takes a user's random.py there for the module of that name. (-P does the same from 3.11 on.)
WITHOUT_WORKING_DIRECTORY: Final = "import sys; sys.path = [place for place in sys.path if place]"
_RUN_MODULE: Final = (
    f"{WITHOUT_WORKING_DIRECTORY}; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_argv(module: str, *words: str) -> list[str]:
    """`python -m MODULE WORDS` as a command line, without the working directory on its path."""
    return [sys.executable, "-c", _RUN_MODULE, module, *words]


def spawn(
    command: str,
    words: Sequence[str],
    *,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Starts `leash COMMAND WORDS` as a process.

    It gets a session of its own, so that Ctrl-C reaches its parent alone, which ends it in order.
    Its standard input is a pipe that closes with its parent: see `interrupt.end_with_parent`.
    """
    return subprocess.Popen(
        module_argv("leash.ps.cli", command, *words),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
        # One computing thread a process unless it says otherwise: N processes share the cores.
        env={"OMP_NUM_THREADS": "1", **os.environ, interrupt.FOLLOWS_PARENT: "1"},
    )


def spawn_module(module: str, inherited_fd: int) -> Process:
    """Starts `python -m MODULE FD` with one more open file, by whose end it sees that of ours.

    Like all processes of Leash it gets a session of its own.
    """
    return subprocess.Popen(
        module_argv(module, str(inherited_fd)),
        stdin=subprocess.DEVNULL,
        pass_fds=[inherited_fd],
        start_new_session=True,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


def stop_all(processes: Sequence[Process], grace_s: float) -> None:
    """SIGTERM to all at once, SIGKILL to whoever is still there after `grace_s` seconds."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace_s
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in running:
        process.kill()  # nothing to a process that has ended
        process.wait()
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()


def last_words(log: str) -> str:
    """The line of a log that says why its process ended, less the `leash COMMAND: ` before it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines:
        return "ended without a word"
    if "the evaluator ended with status" in lines[-1]:
        # The evaluator shares its server's log, and has said more.
        lines = [line for line in lines if line.startswith("leash evaluate: ")] or lines
    return re.sub(r"^leash [\w ]+: ", "", lines[-1])
