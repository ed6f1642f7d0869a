"""Which hosts there are, as people write them, and where a path of this machine is on another."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leash.ps.errors import UsageError

# As in the known forms of such files: `gpu1`, `gpu1:2`, and MPI's `gpu1 slots=2`.
_HOST: Final = re.compile(
    r"(?P<name>[^\s:,=\[\]]+|(?:[^\s:,=\[\]]+@)?\[[0-9A-Fa-f:.]+\])(?::(?P<workers>\d{1,5}))?"
)
_SLOTS: Final = re.compile(r"(?P<name>\S+)\s+slots\s*=\s*(?P<workers>\d{1,5})")
FORMS: Final = "write HOST, or HOST:2 for two workers, with commas between, or the path of a file"
HOME: Final = "~"


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """A host, and how many workers it has."""

    name: str  # as ssh takes it: a name of its configuration, an address, user@host
    workers: int


def parse_hosts(text: str) -> list[HostPlaces]:
    """Reads ``gpu1,gpu2:2,box3``, or a file with such a host on each line.

    Raises:
        UsageError: something is no host, stands there twice, or the file cannot be read.
    """
    found = list(_hosts(text))
    if not found:
        raise UsageError(f"--hosts {text}: names no host; {FORMS}")
    names = [host.name for host in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--hosts {text}: {name} stands there twice; give it once, with the "
                             f"number of its workers, such as {name}:2")  # fmt: skip
    return found


def _hosts(text: str) -> Iterator[HostPlaces]:
    path = Path(text)
    if "," not in text and path.is_file():
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(f"--hosts {text}: {why}; {FORMS}") from error
        for number, line in enumerate(lines, start=1):
            if words := line.partition("#")[0].strip():
                yield _host(words, f"--hosts {text}, line {number}")
        return
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "/" in part:
            raise UsageError(f"--hosts {text}: there is no such file; {FORMS}")
        yield _host(part, f"--hosts {text}")


def _host(words: str, place: str) -> HostPlaces:
    found = _SLOTS.fullmatch(words) or _HOST.fullmatch(words)
    # A name with a dash at its beginning would be an option of ssh.
    if found is None or found["name"].startswith("-"):
        raise UsageError(f"{place}: {words} is no host; {FORMS}")
    workers = int(found["workers"] or 1)
    if workers < 1:
        which = "" if place.endswith(f" {words}") else f" {words}:"
        raise UsageError(f"{place}:{which} give a number of workers above 0, or leave the host "
                         "out")  # fmt: skip
    # ssh takes an IPv6 address without brackets.
    return HostPlaces(found["name"].replace("[", "").replace("]", ""), workers)


# Paths. What is below the home of this user is below his home on another machine, too, which may be
# elsewhere. Any other path is the same.


def portable(path: str) -> str:
    """Writes a path so that another machine finds the same place: ``~/project``, ``/data``."""
    home = str(Path.home())
    if path == home:
        return HOME
    if home != "/" and path.startswith(home + "/"):
        return f"{HOME}/{path[len(home) + 1 :]}"
    return path


def portable_words(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """A command line whose options of these flags name their files as `portable` does.

    Args:
        words: with each option and its value as one word.
        flags: of the options whose values are paths.
    """
    written = []
    for word in words:
        name, equals, value = word.partition("=")
        written.append(f"{name}={portable(value)}" if equals and name in flags else word)
    return written


def shell_word(path: str) -> str:
    """Quotes a portable path for the shell of another machine."""
    if path == HOME:
        return '"$HOME"'
    if path.startswith(f"{HOME}/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(path)
