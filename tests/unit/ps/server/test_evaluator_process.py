"""An evaluator that dies says why: its server repeats its last line and shows all it wrote."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.server import ServerOptions
from leash.ps.processes import Process
from leash.ps.server import evaluator_process
from leash.ps.server.evaluator_process import EvaluatorProcess, lacks_key
from leash.ps.server.loop import Server
from leash.ps.wire.keys import new_keys

TRACEBACK = "Traceback (most recent call last):\\n  File 1\\nValueError: no such board\\n"
ENDS = {
    "a wrong argument": (
        "leash evaluate: --data-dir x: no MNIST there", 2,
        "ended with status 2: --data-dir x: no MNIST there",
    ),
    "a traceback": (TRACEBACK, 1, "ended with status 1: ValueError: no such board"),
    "silence": ("", 3, "ended with status 3: ended without a word"),
    "letters of several bytes": ("é" * 5000 + "\\nend", 1, "ended with status 1: end"),
}  # fmt: skip


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Iterator["Imitation"]:
    imitation = Imitation()
    monkeypatch.setattr(evaluator_process, "spawn", imitation.spawn)
    yield imitation
    imitation.process.kill()
    imitation.process.wait()


class Imitation:
    """Starts this script in the place of `leash evaluate`."""

    script = ""
    process: Process

    def spawn(self, _: str, __: Sequence[str], *, stderr: int) -> Process:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.script], stdin=subprocess.PIPE, stderr=stderr
        )
        return self.process

    def writes(self, text: str, status: int) -> None:
        self.script = f"import sys; sys.stderr.write('{text}'); sys.exit({status})"


@pytest.mark.parametrize(("text", "status", "told"), ENDS.values(), ids=ENDS)
def test_its_end_is_told_with_its_last_line(
    evaluator: Imitation, capfd: pytest.CaptureFixture[str], text: str, status: int, told: str
) -> None:
    evaluator.writes(text, status)
    process = EvaluatorProcess(EvaluateOptions())
    process.start("tcp://127.0.0.1:1")
    evaluator.process.wait(20)
    failure = process.failure()
    process.stop()
    assert failure is not None
    assert (str(failure), failure.status) == (told, status)
    assert capfd.readouterr().err == text.replace("\\n", "\n")


def test_one_that_is_killed_is_told_by_its_signal(evaluator: Imitation) -> None:
    evaluator.script = "input()"
    process = EvaluatorProcess(EvaluateOptions())
    process.start("tcp://127.0.0.1:1")
    assert process.failure() is None
    evaluator.process.kill()
    evaluator.process.wait(20)
    assert str(process.failure()) == "was killed by SIGKILL"
    process.stop()


def test_a_run_that_ends_with_its_evaluator_says_why(evaluator: Imitation) -> None:
    evaluator.writes(TRACEBACK, 1)
    said: list[str] = []
    options: dict[str, Any] = {"bind": "tcp://127.0.0.1:0", "observers": 1}
    process = EvaluatorProcess(EvaluateOptions())
    server = Server(ServerOptions(**options), None, evaluator=process, say=said.append)
    assert server.run() == 1
    assert said[-1] == (
        "ended after 0 steps: the evaluator ended with status 1: ValueError: no such board"
    )


def test_the_evaluator_of_a_server_with_keys_comes_by_an_observers(tmp_path: Path) -> None:
    new_keys(tmp_path / "keys", 1)
    options = ServerOptions(dataset="digits", keys=str(tmp_path / "keys"))
    made = EvaluatorProcess.for_task(options, tmp_path)
    assert made is not None
    assert made._options.key == str(tmp_path / "keys" / "observer.key")
    assert not lacks_key(options)
    (tmp_path / "keys" / "observer.key").unlink()  # it was moved away
    assert EvaluatorProcess.for_task(options, tmp_path) is None
    assert lacks_key(options)
    assert not lacks_key(ServerOptions(dataset="digits"))
