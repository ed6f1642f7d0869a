"""Everything that Leash says is a line for people, and a record of `logging` below "leash"."""

import logging
import subprocess
import sys

import pytest
from rich.console import Console

from leash._log import logged
from leash.ps.commands.live_screen import Screen


def test_a_line_is_shown_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[str] = []
    with caplog.at_level(logging.INFO, "leash"):
        logged(shown.append, "leash.somewhere")("100 % of a line")
    assert shown == ["100 % of a line"]
    assert caplog.record_tuples == [("leash.somewhere", logging.INFO, "100 % of a line")]


def test_what_a_launch_shows_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "leash"):
        Screen(Console(quiet=True)).say("worker 2 failed; the run goes on without it")
    assert caplog.messages == ["worker 2 failed; the run goes on without it"]


def told_by(script: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, done.stderr


def test_logging_is_silent_until_somebody_asks_for_it() -> None:
    assert told_by("import logging, leash._log; logging.getLogger('leash.x').error('hidden')") == (
        "", "",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["", "leash"], ids=["root", "leash"])
def test_a_library_s_line_goes_to_stderr_or_to_the_script_s_handler(name: str) -> None:
    say = (
        "import logging, sys; from leash._log import logged, say_on_stderr\n"
        "{set_up}\n"
        "logged(say_on_stderr, 'leash.x', logging.WARNING)('no shared memory')"
    )
    handler = f"logging.getLogger({name!r}).addHandler(logging.StreamHandler(sys.stdout))"
    assert told_by(say.format(set_up="")) == ("", "leash: no shared memory\n")
    assert told_by(say.format(set_up=handler)) == ("no shared memory\n", "")


def test_a_server_s_process_writes_its_own_failures_to_stderr() -> None:
    out, err = told_by(
        "import logging, leash._log\n"
        "leash._log.show_errors('leash.ps.shard')\n"
        "logging.getLogger('leash.ps.shard.metrics').info('hidden')\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError as error:\n"
        "    logging.getLogger('leash.ps.shard.metrics').error('it failed', exc_info=error)\n"
    )
    assert out == ""
    assert err.startswith("leash: it failed\nTraceback")
    assert err.endswith("ZeroDivisionError: division by zero\n")
