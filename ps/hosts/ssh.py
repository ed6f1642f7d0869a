"""Runs `ssh`, the user's own with his own configuration, on several hosts at once."""

import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.words import listed

NOT_CONNECTED: Final = 255  # ssh's exit status where it did not come to the command
NO_SUCH_COMMAND: Final = (126, 127)  # a shell's
# A host that has gone is noticed in so many seconds.
ALIVE_S: Final = 3
ALIVE_COUNT: Final = 3
CONNECT_S: Final = 10
WAITING_LINE_S: Final = 10.0
OPTIONS: Final = (
    "BatchMode=yes",  # it never asks: there may be no terminal, and several ask at once
    f"ConnectTimeout={CONNECT_S}",
    f"ServerAliveInterval={ALIVE_S}",
    f"ServerAliveCountMax={ALIVE_COUNT}",
    # Those of the configuration are for one connection: a second would find their ports taken.
    "ClearAllForwardings=yes",
)
NOT_HERE: Final = "{} is not installed here: apt install {}, or what your system has"
_NO_REASON: Final = re.compile(r"Warning: Permanently added|^\*\*|^$")


def ssh_words(*options: str) -> list[str]:
    """`ssh` with the options of all of our connections."""
    return ["ssh", *(word for option in (*OPTIONS, *options) for word in ("-o", option)), "-T"]


def ssh_argv(host: str, command: str) -> list[str]:
    """The command line that has the shell of a host run a command."""
    return [*ssh_words(), "--", host, command]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of a program."""

    status: int | None  # None if it took too long
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The line in which it says why it has failed."""
        lines = (line.strip() for line in self.stderr.splitlines())
        telling = [line for line in lines if not _NO_REASON.search(line)]
        return telling[-1].rstrip(".") if telling else f"ended with status {self.status}"


def run_all(
    commands: Mapping[str, Sequence[str]], given: Mapping[str, str], timeout_s: float | None,
    say_waiting: Callable[[str], None],
) -> Iterator[tuple[str, Outcome]]:  # fmt: skip
    """Runs a program for each host, all at once; yields what has come of each as soon as it has.

    Those that have not ended when the caller goes on, or is interrupted, are killed.

    Args:
        commands: host ▸ command line.
        given: host ▸ what it reads from its standard input, if anything.
        timeout_s: how long one may take; None for as long as it takes.
        say_waiting: shows now and then for which hosts one waits.

    Raises:
        UsageError: the program is not installed here.
    """
    running: dict[str, subprocess.Popen[str]] = {}
    ended: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
    try:
        for host, argv in commands.items():
            running[host] = _started(argv)
            asked = (host, running[host], given.get(host, ""), timeout_s, ended)
            threading.Thread(target=_await, args=asked, daemon=True).start()
        waiting, began_s = list(commands), time.monotonic()
        while waiting:
            try:
                host, outcome = ended.get(timeout=WAITING_LINE_S)
            except queue.Empty:
                so_far_s = time.monotonic() - began_s
                say_waiting(f"still waiting for {listed(waiting)}, {so_far_s:.0f} s so far")
                continue
            waiting.remove(host)
            yield host, outcome
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()


def _started(argv: Sequence[str]) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, errors="replace",
            start_new_session=True,  # Ctrl-C is for the launcher, which ends it
        )  # fmt: skip
    except FileNotFoundError:
        package = {"ssh": "openssh-client"}.get(argv[0], argv[0])
        raise UsageError(NOT_HERE.format(argv[0], package)) from None


def _await(
    host: str, process: "subprocess.Popen[str]", given: str, timeout_s: float | None,
    ended: "queue.SimpleQueue[tuple[str, Outcome]]",
) -> None:  # fmt: skip
    with process:
        try:
            out, err = process.communicate(given, timeout_s)
            ended.put((host, Outcome(process.returncode, out, err)))
        except subprocess.TimeoutExpired:
            process.kill()
            ended.put((host, Outcome(None, "", "")))


def ssh_settings(host: str) -> dict[str, str]:
    """What ssh would go by for a host, by its keywords in lower case, such as ``hostname``.

    Raises:
        UsageError: there is no ssh here, or it does not read its own configuration.
    """
    try:
        found = subprocess.run(
            ["ssh", "-G", "--", host], stdin=DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UsageError(NOT_HERE.format("ssh", "openssh-client")) from None
    if found.returncode != 0:
        words = Outcome(found.returncode, "", found.stderr).last_words
        raise UsageError(f"--hosts: ssh cannot take {host}: {words}")
    lines = (line.partition(" ") for line in found.stdout.splitlines())
    return {keyword: value for keyword, _, value in lines}
