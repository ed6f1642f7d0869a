"""What a host may lack, and what its line says of it."""

import json
import socket
import subprocess
import sys
from inspect import getsource
from typing import Any

import pytest

from leash._version import __version__
from leash.ps.errors import UsageError
from leash.ps.hosts import check_program
from leash.ps.hosts.checks import Wanted, Way, complaints, read_answer
from leash.ps.hosts.open_ports import OpenPorts
from leash.ps.hosts.ssh import Outcome, run_all
from leash.ps.wire.frames import VERSION

WANTED = Wanted(python="~/venv/bin/python", directory="~/project", paths=("train.py",))
WAY = Way(range(29500, 29502), "token")
GOOD: dict[str, Any] = {
    "python": "3.11.7", "executable": "/venv/bin/python", "directory": True, "missing": [],
    "rsync": True, "leash": __version__, "wire": VERSION, "leash_error": "", "torch": "2.13.0",
    "address": "10.0.0.1", "why": [],
}  # fmt: skip


def test_a_host_that_lacks_nothing_has_no_complaint() -> None:
    assert complaints(GOOD, WANTED, WAY) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"python": "3.8.10"}, "Python 3.8.10 at /venv/bin/python: Leash needs 3.10 or newer; give "
         "--python PATH"),
        ({"leash": "", "leash_error": "ModuleNotFoundError: No module named 'leash'"},
         "Python 3.11.7 at /venv/bin/python has no Leash (ModuleNotFoundError: No module named "
         f"'leash'); install the wheel of Leash {__version__} there as you did here, or give "
         "--python PATH"),
        ({"leash": "0.0.9"}, f"Leash 0.0.9 with wire format {VERSION} there, and Leash "
         f"{__version__} with wire format {VERSION} here; install the same on both"),
        ({"wire": 99}, f"Leash {__version__} with wire format 99 there, and Leash {__version__} "
         f"with wire format {VERSION} here; install the same on both"),
        ({"leash_error": "ImportError: no _core"},
         "Leash there does not import (ImportError: no _core); install it again"),
        ({"torch": ""}, "Python 3.11.7 at /venv/bin/python has no torch; there: "
         "/venv/bin/python -m pip install torch"),
        ({"directory": False}, "no directory ~/project there; --sync . copies this one"),
        ({"missing": [__file__]},
         f"no {__file__} there; --sync copies a directory that holds it, such as --sync ."),
        ({"missing": ["~/project/none.py"]},
         "no ~/project/none.py there, nor here; give the path of a script"),
        ({"address": "", "why": ["10.0.0.1:29500: timed out"]},
         "does not reach the server's ports 29500 to 29501 here (10.0.0.1:29500: timed out); open "
         "them, or give --address HOST and --port PORT that it reaches"),
    ],
)  # fmt: skip
def test_each_thing_that_is_missing_is_named_with_its_mend(
    found: dict[str, Any], says: str
) -> None:
    assert complaints({**GOOD, **found}, WANTED, WAY) == [says]


def test_a_host_lacks_rsync_only_where_something_is_copied() -> None:
    found = {**GOOD, "rsync": False, "directory": False}
    synced = Wanted(python="python3", directory="~/project", is_synced=True)
    assert complaints(found, synced, WAY) == ["no rsync there, for --sync; apt install rsync"]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome(255, "", "Warning: Permanently added 'x'\nme@gpu1: Permission denied (publickey)"),
         "me@gpu1: Permission denied (publickey); ssh gpu1 true has to work, without a question"),
        (Outcome(255, "", "ssh: Could not resolve hostname gpu1: Name or service not known"),
         "ssh: Could not resolve hostname gpu1: Name or service not known, and there is no file "
         "gpu1 here; ssh gpu1 true has to work, without a question"),
        (Outcome(127, "", "bash: /x/python: No such file or directory"),
         "no Python at ~/venv/bin/python; give --python PATH"),
        (Outcome(None, "", ""), "no answer within 60 s"),
        (Outcome(1, "", "Traceback\nSyntaxError: invalid syntax"), "~/venv/bin/python there does "
         "not run: SyntaxError: invalid syntax; give --python PATH"),
    ],
)  # fmt: skip
def test_a_host_that_does_not_answer_says_why(outcome: Outcome, says: str) -> None:
    assert read_answer("gpu1", outcome, WANTED) == ({}, [says])


# The program itself, as a host runs it.


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    program = f"{getsource(check_program)}\n\nanswer_to({asked!r})\n"
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, check=True
    )
    found, why = read_answer("here", Outcome(0, f"Welcome!\n{done.stdout}", ""), WANTED)
    assert why == []
    return found


def test_this_host_lacks_nothing_but_the_file_that_is_not_there() -> None:
    with OpenPorts(2, "token") as listening:
        found = ask({
            "directory": "/", "paths": ["/usr", "/no/such/file"], "token": "token",
            "addresses": ["127.0.0.2", "127.0.0.1"],
            "ports": [listening.first, listening.first + 1],
        })  # fmt: skip
    assert (found["leash"], found["wire"], found["missing"]) == (
        __version__, VERSION, ["/no/such/file"]
    )  # fmt: skip
    assert found["torch"]
    assert found["address"] in ("127.0.0.1", "127.0.0.2")


def test_a_port_of_somebody_else_and_a_closed_one_are_told_from_ours() -> None:
    with OpenPorts(1, "mine") as listening, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port, none = listening.first, closed.getsockname()[1]
        asked = {"directory": "/", "paths": [], "addresses": ["127.0.0.1"]}
        other = ask({**asked, "token": "another", "ports": [port]})
        shut = ask({**asked, "token": "mine", "ports": [port, none]})
    assert (other["address"], other["why"]) == ("", [f"127.0.0.1:{port}: somebody else answers"])
    assert (shut["address"], shut["why"]) == ("", [f"127.0.0.1:{none}: Connection refused"])


def test_a_port_that_is_taken_here_is_refused_before_a_host_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^--port {port}: one of the 2 ports from there is"):
            OpenPorts(2, "token", port)


def test_programs_run_at_once_and_one_that_is_missing_is_named() -> None:
    commands = {name: ["sh", "-c", f"cat; echo {name} >&2; exit 3"] for name in ("a", "b")}
    found = dict(run_all(commands, {"a": "1", "b": "2"}, 20, print))
    assert found == {"a": Outcome(3, "1", "a\n"), "b": Outcome(3, "2", "b\n")}
    assert found["a"].last_words == "a"
    with pytest.raises(UsageError, match="no-such-program is not installed here: apt install"):
        list(run_all({"a": ["no-such-program"]}, {}, 20, print))
    (late,) = run_all({"a": ["sleep", "60"]}, {}, 0.1, print)
    assert late == ("a", Outcome(None, "", ""))


def test_the_answer_is_found_among_what_a_login_prints() -> None:
    line = check_program.MARK + json.dumps(GOOD)
    assert read_answer("gpu1", Outcome(0, f"motd\n{line}\n", ""), WANTED) == (GOOD, [])
