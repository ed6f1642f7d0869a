"""`--sync`: has rsync copy a directory to every host."""

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.hosts.places import HOME, portable, shell_word
from leash.ps.hosts.ssh import run_all, ssh_words
from leash.ps.words import listed

# What git ignores is no code: environments, data, runs. Nothing is deleted on a host.
# Secret keys stay where they are: each worker is given its own, over ssh.
SECRET: Final = ("server.key", "admin.key", "observer.key", "worker-*.key")
NO_CODE: Final = (".git", "__pycache__")
FILTERS: Final = (
    "--filter=:- .gitignore", *(f"--exclude={name}" for name in NO_CODE),
    *(f"--exclude={name}" for name in SECRET),
)  # fmt: skip
OF_EVERY_RUN: Final = frozenset(("events.jsonl", "summary.json"))
WILDCARD: Final = re.compile(r"[*?\[]")


def copied_directory(directory: str, working_directory: str) -> str:
    """The directory that `--sync` names, as an absolute path.

    Args:
        directory: as it was given.
        working_directory: where the launch runs, and its workers.

    Raises:
        UsageError: there is none, or the workers would begin outside of it.
    """
    whole = Path(directory).resolve()
    if not whole.is_dir():
        raise UsageError(f"--sync {directory}: there is no such directory")
    if not Path(working_directory).resolve().is_relative_to(whole):
        raise UsageError(f"--sync {directory}: the workers begin in {working_directory}, which is "
                         "not in it; give a directory that holds this one, such as .")  # fmt: skip
    return str(whole)


def runs_in(directory: str) -> Iterator[str]:
    """Finds the run directories in a directory, at any depth.

    Args:
        directory: an absolute path.
    """
    for folder, below, files in os.walk(directory):
        if not OF_EVERY_RUN.isdisjoint(files):
            yield folder
            below.clear()
        below[:] = [name for name in below if name not in NO_CODE]


def copy_to_hosts(
    directory: str, hosts: Sequence[str], left_out: Sequence[str], say: Callable[[str], None]
) -> None:
    """Copies a directory to the same place on each host, all at once.

    Args:
        directory: an absolute path; below the home of this user it is below his home there.
        hosts: as ssh takes them.
        left_out: absolute paths of what is not to be copied, such as runs.
        say: shows a line.

    Raises:
        UsageError: it failed somewhere.
    """
    place = portable(directory)
    filters = filters_for(directory, left_out)
    there = "." if place == HOME else place.removeprefix(f"{HOME}/")
    say(f"copying {directory} to {listed(hosts)}")
    began_s = time.monotonic()
    commands = {host: _argv(host, directory, there, shell_word(place), filters) for host in hosts}
    failed = {}
    for host, outcome in run_all(commands, {}, None, say):
        if outcome.status == 0:
            say(f"{host}  copied in {time.monotonic() - began_s:.1f} s")
        else:
            failed[host] = outcome.last_words
            say(f"{host}  rsync: {outcome.last_words}")
    if failed:
        raise UsageError(f"--sync {directory}: could not be copied to {listed(list(failed))} (see "
                         "above); nothing was started")  # fmt: skip


def filters_for(directory: str, left_out: Sequence[str]) -> list[str]:
    """What tells rsync which files not to copy.

    Args:
        directory: that is copied.
        left_out: absolute paths; those elsewhere are of no account.
    """
    inside = [path.removeprefix(f"{directory}/") for path in left_out
              if path.startswith(f"{directory}/")]  # fmt: skip
    return [*FILTERS, *(f"--exclude=/{_as_pattern(path)}" for path in inside)]


def _argv(host: str, directory: str, there: str, quoted: str, filters: Sequence[str]) -> list[str]:
    return [
        "rsync", "--archive", "--compress", "--protect-args", *filters,
        # The directory's parents may be missing.
        f"--rsync-path=mkdir -p {quoted} && rsync", f"--rsh={shlex.join(ssh_words())}",
        "--", f"{directory}/", f"{_bracketed(host)}:{there}/",
    ]  # fmt: skip


def _as_pattern(path: str) -> str:
    """A path as a pattern of rsync, which reads backslashes only where there is a wildcard."""
    return re.sub(r"[\\*?\[]", r"\\\g<0>", path) if WILDCARD.search(path) else path


def _bracketed(host: str) -> str:
    """A host as rsync takes it, which has a colon behind it."""
    user, at, name = host.rpartition("@")
    return f"{user}{at}[{name}]" if ":" in name else host
