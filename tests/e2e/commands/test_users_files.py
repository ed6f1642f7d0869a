"""What users call their own files is their business: beside a script, and where they start us."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# Names of ours, of before and of today, and of a module of Python's that we need.
NAMES = ("worker", "ps", "bench", "queue", "errors", "cli")
LEASH = Path(sys.executable).with_name("leash")
SCRIPT = """
import sys

import torch
from leash import PSOptimizer

torch.manual_seed(0)
model = torch.nn.Linear(4, 3)
with PSOptimizer(model.named_parameters(), server=sys.argv[1], rank=1) as optimizer:
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
print("trained")
"""
NETS = """
import torch

def build():
    return torch.nn.Linear(8, 2)

def data():
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    targets = (inputs.sum(1) > 0).long()
    return (inputs, targets), (inputs, targets)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory in which importing the wrong module is an error that names it."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py is the user\\'s own')\n")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def leash(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [LEASH, *words], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def start(argv: Sequence[str | Path], folder: Path) -> "tuple[subprocess.Popen[str], str]":
    """A server that writes its address to a pipe; the process, and the address."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as ready:
        process = subprocess.Popen(
            [*argv, f"--ready-fd={writer}"], cwd=folder, pass_fds=(writer,), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(writer)
        return process, ready.read()


def test_a_script_beside_them_gets_our_optimizer(folder: Path) -> None:
    # Beside the script there is no queue.py: Python itself would take it for its own.
    (folder / "queue.py").unlink()
    (folder / "train.py").write_text(SCRIPT)
    server, address = start([LEASH, "server", "--bind=tcp://127.0.0.1:0", "--policy=asp"], folder)
    with server:
        done = subprocess.run(
            [sys.executable, "train.py", address],
            cwd=folder, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("trained\n", 0), done.stderr
        out, _ = server.communicate(timeout=60)
    assert server.returncode == 0, out


def test_launch_trains_a_users_model_among_them(folder: Path) -> None:
    done = leash(
        folder, "launch", "--workers=2", "--policy=bsp", "--model=nets:build",
        "--dataset=nets:data", "--epochs=2", "--batch-size=16", "--run-dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["ended"] == "done"
    assert summary["test_accuracy"] is not None


def test_a_server_with_an_evaluator_and_shards_starts_among_them(folder: Path) -> None:
    server, address = start(
        [LEASH, "server", "--bind=tcp://127.0.0.1:0", "--workers=1", "--model=nets:build",
         "--dataset=nets:data", "--epochs=2", "--shards=2", "--run-dir=run"],
        folder,
    )  # fmt: skip
    with server:
        worker = leash(folder, "worker", f"--server={address}", "--batch-size=16",
                       "--model=nets:build", "--dataset=nets:data")  # fmt: skip
        out, _ = server.communicate(timeout=60)
    assert (worker.returncode, server.returncode) == (0, 0), worker.stderr + out
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] is not None, out


def test_doctor_does_not_import_a_users_torch(folder: Path) -> None:
    (folder / "torch.py").write_text("open('imported', 'w')\n")
    assert leash(folder, "doctor").returncode == 0
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("module", ["ps", "worker", "worker.em"])
def test_names_of_before_still_run_the_commands(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage: leash ")


def test_names_of_before_are_the_same_modules(tmp_path: Path) -> None:
    script = (
        "import leash.ps.wire.messages as ours, leash.worker.client\n"
        "import ps.wire.messages as before, worker.client, worker\n"
        "assert before is ours and worker.client is leash.worker.client\n"
        "assert worker.PSOptimizer is leash.PSOptimizer\n"
        "assert ours.__spec__.name == 'leash.ps.wire.messages'\n"
        "try:\n    import ps.nothing\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "ps.nothing\n"
