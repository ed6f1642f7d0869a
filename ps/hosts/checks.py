"""Asks every host, before anything is started, whether it has what a worker needs."""

import inspect
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leash._version import __version__
from leash.ps.errors import UsageError
from leash.ps.hosts import check_program
from leash.ps.hosts.open_ports import OpenPorts
from leash.ps.hosts.places import shell_word
from leash.ps.hosts.routes import addresses_for
from leash.ps.hosts.ssh import NO_SUCH_COMMAND, NOT_CONNECTED, Outcome, run_all, ssh_argv
from leash.ps.wire.frames import VERSION
from leash.ps.words import listed

CHECK_S: Final = 60.0  # a host that has not answered by then is none
UNRESOLVED: Final = "Could not resolve hostname"  # of ssh
OLDEST_PYTHON: Final = (3, 10)
CHECK_TOKEN_NBYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What every host has to have."""

    python: str  # its Python, as a portable path or a name
    directory: str  # where its workers begin, as a portable path
    paths: Sequence[str] = ()  # that have to be there; those that are not absolute, from there
    needs_torch: bool = True
    is_synced: bool = False  # the directory is copied there


@dataclass(frozen=True, slots=True)
class Way:
    """The ports of the server, and where a host may find them."""

    ports: Sequence[int]
    token: str = field(repr=False)  # what they tell while the check goes on
    address: str | None = None  # of this machine; None for that of the route


def check_hosts(
    names: Sequence[str], wanted: Wanted, ports: int, *,
    first_port: int | None, address: str | None, say: Callable[[str], None],
) -> tuple[dict[str, str], int]:  # fmt: skip
    """Asks all of them at once, and shows a line for each as it answers.

    Args:
        names: of the hosts, as ssh takes them.
        wanted: what each has to have.
        ports: how many the server takes, one after another.
        first_port: the first of them; None for any.
        address: of this machine, for all hosts; None for the one that each reaches.
        say: shows a line.

    Returns:
        Host ▸ the address at which it reaches this machine; and the first port.

    Raises:
        UsageError: a host lacks something, which its line has told; or a port here is taken.
    """
    token = secrets.token_hex(CHECK_TOKEN_NBYTES)
    say(f"checking {listed(names)}")
    with OpenPorts(ports, token, first_port) as listening:
        way = Way(range(listening.first, listening.first + ports), token, address)
        programs = {name: _program(wanted, way, name) for name in names}
        answers = _ask(programs, wanted, way, say)
    lacking = [name for name in names if name not in answers]
    if lacking:
        raise UsageError(f"--hosts: {len(lacking)} of {len(names)} cannot take part: "
                         f"{listed(lacking)} (see above); nothing was started")  # fmt: skip
    return answers, listening.first


def _ask(
    programs: Mapping[str, str], wanted: Wanted, way: Way, say: Callable[[str], None]
) -> dict[str, str]:
    """Host ▸ its address of this machine, of those that lack nothing."""
    command = f"{shell_word(wanted.python)} -"
    width = max(map(len, programs))
    answers = {}
    commands = {name: ssh_argv(name, command) for name in programs}
    for name, outcome in run_all(commands, programs, CHECK_S, say):
        found, why = read_answer(name, outcome, wanted)
        if not why:
            why = complaints(found, wanted, way)
        if why:
            say(f"{name:<{width}}  {'; '.join(why)}")
            continue
        torch = f", torch {found['torch']}" if found["torch"] else ""
        say(f"{name:<{width}}  ok: Python {found['python']}, Leash {found['leash']}{torch}, "
            f"reaches this machine at {found['address']}")  # fmt: skip
        answers[name] = found["address"]
    return answers


def _program(wanted: Wanted, way: Way, host: str) -> str:
    """The program for one host, with what it is asked."""
    asked = {
        "directory": wanted.directory, "paths": _absolute(wanted), "ports": list(way.ports),
        "token": way.token,
        "addresses": [way.address] if way.address is not None else addresses_for(host),
    }  # fmt: skip
    return f"{inspect.getsource(check_program)}\n\nanswer_to({asked!r})\n"


def _absolute(wanted: Wanted) -> list[str]:
    return [
        path if path.startswith(("/", "~")) else f"{wanted.directory}/{path}"
        for path in wanted.paths
    ]


def read_answer(host: str, outcome: Outcome, wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """What a host has answered, and why it has not.

    Args:
        host: as ssh takes it.
        outcome: of ssh.
        wanted: what it was asked for.
    """
    for line in outcome.stdout.splitlines():
        if line.startswith(check_program.MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(check_program.MARK))
            return found, []
    if outcome.status is None:
        return {}, [f"no answer within {CHECK_S:.0f} s"]
    if outcome.status == NOT_CONNECTED:
        file = "" if Path(host).exists() else f", and there is no file {host} here"
        nor = file if UNRESOLVED in outcome.last_words else ""
        return {}, [f"{outcome.last_words}{nor}; ssh {host} true has to work, without a question"]
    if outcome.status in NO_SUCH_COMMAND:
        return {}, [f"no Python at {wanted.python}; give --python PATH"]
    return {}, [f"{wanted.python} there does not run: {outcome.last_words}; give --python PATH"]


def complaints(found: Mapping[str, Any], wanted: Wanted, way: Way) -> list[str]:
    """What a host lacks that has answered, each with its mend; empty where it lacks nothing.

    Args:
        found: its answer.
        wanted: what it has to have.
        way: to the server.
    """
    why = []
    python = f"Python {found['python']} at {found['executable']}"
    version = tuple(int(part) for part in found["python"].split(".")[:2])
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return [f"{python}: Leash needs {oldest} or newer; give --python PATH"]
    if not found["leash"]:
        why.append(f"{python} has no Leash ({found['leash_error']}); install the wheel of Leash "
                   f"{__version__} there as you did here, or give --python PATH")  # fmt: skip
    elif (found["leash"], found["wire"]) != (__version__, VERSION):
        why.append(f"{_named(found)} there, and {_named({'leash': __version__, 'wire': VERSION})} "
                   "here; install the same on both")  # fmt: skip
    elif found["leash_error"]:
        why.append(f"Leash there does not import ({found['leash_error']}); install it again")
    if wanted.needs_torch and not found["torch"]:
        why.append(f"{python} has no torch; there: {found['executable']} -m pip install torch")
    if wanted.is_synced and not found["rsync"]:
        why.append("no rsync there, for --sync; apt install rsync")
    if not wanted.is_synced and not found["directory"]:
        why.append(f"no directory {wanted.directory} there; --sync . copies this one")
    elif found["missing"]:
        is_here = all(Path(path).expanduser().exists() for path in found["missing"])
        mend = (
            "there; --sync copies a directory that holds it, such as --sync ." if is_here
            else "there, nor here; give the path of a script"
        )  # fmt: skip
        why.append(f"no {listed(found['missing'])} {mend}")
    if not found["address"]:
        ports = f"{way.ports[0]} to {way.ports[-1]}"
        tried = ", ".join(found["why"]) or "this machine has no address that it could try"
        why.append(f"does not reach the server's ports {ports} here ({tried}); open them, or give "
                   "--address HOST and --port PORT that it reaches")  # fmt: skip
    return why


def _named(found: Mapping[str, Any]) -> str:
    return f"Leash {found['leash']} with wire format {found['wire']}"
