"""What the documents tell people to type is typed here, with HOST and DIR filled in.

tests/unit/test_documents.py has the parser read every command line. Those that a machine answers in
seconds are run: predictions, keys, what needs no run, and four whole pages in their order.
"""

import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from leash.ps import cli
from support.mnist import write_digits
from support.processes import LEASH, Child, server_process

ROOT = Path(__file__).resolve().parents[3]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
MOST_STEPS: Final = 150_000  # of a prediction that is played here; about 3 s


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text("utf-8")) if name == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command line of `leash` in the page's blocks."""
    for code in blocks(page, ""):
        for line in code.replace("\\\n", " ").splitlines():
            text = line.strip().removeprefix("$ ")
            if text.startswith("leash "):
                yield shlex.split(text, comments=True)[1:]


def those_of(page: str, *names: str) -> list[list[str]]:
    return [words for words in commands(ROOT / page) if not names or words[0] in names]


def everywhere(name: str) -> list[list[str]]:
    found = {shlex.join(w): w for page in PAGES for w in commands(page) if w[0] == name}
    return list(found.values())


def is_short(words: list[str]) -> bool:
    _, options = cli.parse(words)
    steps = options.total_batches * len(options.rules())  # type: ignore[attr-defined]
    return bool(steps <= MOST_STEPS)


# Predictions.

PREDICTIONS: Final = [words for words in everywhere("simulate") if is_short(words)]


def test_most_predictions_are_short() -> None:
    assert len(PREDICTIONS) >= 5


@pytest.mark.parametrize("words", PREDICTIONS, ids=shlex.join)
def test_a_prediction_is_made(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 0
    assert "steps/s" in capsys.readouterr().out


def test_the_prediction_that_a_page_shows_is_the_one_that_is_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = ROOT / "docs" / "how-to" / "simulate.md"
    (block,) = [code for code in blocks(page, "") if code.startswith("$ leash simulate")]
    line, _, shown = block.partition("\n")
    assert cli.run(shlex.split(line)[2:]) == 0
    made = capsys.readouterr().out.splitlines()
    rows = [row.rstrip() for row in shown.splitlines() if row.strip()]
    assert rows == [row.rstrip() for row in made if row.strip()][: len(rows)]


# Keys.


def test_the_page_on_keys_can_be_typed_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in those_of("docs/how-to/keys.md", "keys"):
        assert cli.run(words) == 0, words
    allowed = (tmp_path / "keys" / "allowed").read_text("utf-8")
    assert "anna" in allowed
    named = set(re.findall(r"`keys/([\w.-]+)`", (ROOT / "docs/how-to/keys.md").read_text("utf-8")))
    assert named == {"server.key", "allowed", "worker-1.key", "worker-2.key", "admin.key",
                     "observer.key"}  # fmt: skip
    assert [name for name in named if not (tmp_path / "keys" / name).exists()] == []
    capsys.readouterr()


# Whole pages.


def finish(child: Child, timeout_s: float) -> list[str]:
    assert child.wait(timeout_s) == 0, "\n".join(child.lines)
    return child.lines


@pytest.mark.timeout(300)
def test_the_first_five_minutes_can_be_typed_from_top_to_bottom(tmp_path: Path) -> None:
    page = ROOT / "docs" / "start.md"
    (script,) = blocks(page, "python")
    (tmp_path / "train.py").write_text(script)
    # `leash demo` has a test of its own, tests/e2e/commands/test_demo.py
    typed = [words for words in those_of("docs/start.md") if words != ["demo"]]
    assert [words[0] for words in typed] == ["doctor", "launch", "launch", "report", "launch"]
    said = []
    for words in typed:
        with Child([*LEASH, *words], cwd=tmp_path) as child:
            said = finish(child, 120)
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    losses = [float(x) for x in re.findall(r"epoch 5: mean loss ([\d.]+)", "\n".join(said))]
    assert losses
    assert max(losses) < 0.2  # the first is near 8, the variance of a sum of eight


def launches_of_a_script() -> list[tuple[str, ...]]:
    """Those that name a rate, up to the script's name, but for the one that is typed above."""
    launches = [words for words in everywhere("launch") if {"--lr", "train.py"} < set(words)]
    begun = {tuple(words[: words.index("train.py") + 1]) for words in launches}
    return sorted(begun - {tuple(words) for words in those_of("docs/start.md")})


def test_other_pages_start_a_script_too() -> None:
    assert launches_of_a_script()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("words", launches_of_a_script(), ids=shlex.join)
def test_a_script_learns_at_the_rate_that_a_page_gives(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """Their pages have no whole script: it is that of the first five minutes."""
    (script,) = blocks(ROOT / "docs" / "start.md", "python")
    (tmp_path / "train.py").write_text(script)
    with Child([*LEASH, *words], cwd=tmp_path) as child:
        said = finish(child, 120)
    losses = [float(x) for x in re.findall(r"epoch 5: mean loss ([\d.]+)", "\n".join(said))]
    assert losses
    assert max(losses) < 0.2


@pytest.mark.timeout(200)
def test_a_host_of_several_processes_trains_as_its_page_says(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "several-gpus.md"
    (script,) = blocks(page, "python")
    (tmp_path / "train.py").write_text(script)
    (block,) = [code for code in blocks(page, "") if "torchrun" in code]
    line = next(x for x in block.splitlines() if "torchrun" in x)
    (command,) = re.findall(r"torchrun (.*train\.py)", line)
    words = shlex.split(command.replace("--nproc-per-node 4", "--nproc-per-node 2"))
    (server,) = those_of("docs/how-to/several-gpus.md", "server")
    rate = server[server.index("--lr") + 1]
    with server_process(tmp_path / "run", "--workers=1", f"--lr={rate}") as (_, address):
        told = [f"LEASH_SERVER={address}", "LEASH_RANK=1"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *words]
        with Child(["env", *told, *torchrun], cwd=tmp_path) as child:
            said = "\n".join(finish(child, 120))
    losses = [float(x) for x in re.findall(r"epoch \d: mean loss ([\d.]+)", said)]
    assert len(losses) == 3
    assert losses[2] < losses[0] / 4


@pytest.mark.timeout(300)
def test_several_machines_can_be_started_as_their_page_says(tmp_path: Path) -> None:
    """All of them are this one; a GPU is left out where there is none."""
    write_digits(tmp_path / "DIR", train=600)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    def here(words: list[str]) -> list[str]:
        text = shlex.join(words).replace("0.0.0.0:29500", f"127.0.0.1:{port}")
        text = text.replace("HOST:29500", f"127.0.0.1:{port}").replace("--device cuda", "")
        text = text.replace("--key ", "--key keys/")  # where `scp` would have brought it from
        return shlex.split(text.replace("--epochs 10", "--epochs 2"))

    page = "docs/how-to/several-machines.md"
    (keys,) = those_of(page, "keys")
    (server,), workers = those_of(page, "server"), those_of(page, "worker")
    (policy,) = those_of(page, "set")
    assert len(workers) == 2
    made = [*LEASH, *keys]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    with ExitStack() as stack:
        start = [*LEASH, *here(server), "--evict-s", "60"]
        running = stack.enter_context(Child(start, cwd=tmp_path))
        running.read_until("waiting for worker", 60)
        with Child([*LEASH, *here(policy)], cwd=tmp_path) as asked:
            finish(asked, 60)
        processes = [
            stack.enter_context(Child([*LEASH, *here(words)], cwd=tmp_path)) for words in workers
        ]
        for process in [*processes, running]:
            finish(process, 200)
    assert any("test accuracy" in line for line in running.lines)
