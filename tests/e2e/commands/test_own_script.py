"""A training script of one's own, started by `leash launch` and by torchrun."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from leash.ps.words import WORKERS_FAILED
from support.processes import LEASH, LOAD_S, Child, own_processes, still_running

DOWN_WITHIN_S = 5.0 + LOAD_S
SCRIPT = """
import os
import sys
import torch
from leash import PSOptimizer

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
with PSOptimizer(model.named_parameters()) as optimizer:
    rank = optimizer.client.rank
    words = dict(word.split("=") for word in sys.argv[1:])
    print("words", sys.argv[1:], "rank", rank, "process", os.getpid(), flush=True)
    for step in range(1, int(words.get(f"--steps-{rank}", 5)) + 1):
        inputs = torch.randn(8, 4)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step(samples=8)
        if step == 1:
            print("first step", flush=True)
        if words.get("--fails") == str(rank):
            raise ValueError("out of luck")
print("trained", end="", flush=True)
if "--then" in words:
    open(words["--then"]).close()  # a FIFO: until somebody writes
    print(" and evaluated", end="")
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text(SCRIPT)
    return str(tmp_path / "train.py")


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    before = {process.pid for process in own_processes()}
    yield
    left = [process for process in own_processes() if process.pid not in before]
    assert still_running(left, DOWN_WITHIN_S) == []


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def launch(run: Path, *words: str) -> Child:
    return Child([*LEASH, "launch", f"--run-dir={run}", *words])


def test_a_launch_starts_copies_that_know_their_place(tmp_path: Path, script: str) -> None:
    """What stands behind the script's name is the script's, also what looks like an option."""
    run = tmp_path / "run"
    with launch(run, "--workers=2", "--lr=0.25", "--policy=bsp", script, "--steps-1=7",
                "--steps-2=7", "--workers=9") as child:  # fmt: skip
        assert child.wait(100) == 0, "\n".join(child.lines)
    for rank in (1, 2):
        told = f"[{rank}] words ['--steps-1=7', '--steps-2=7', '--workers=9'] rank {rank} "
        assert [line for line in child.lines if line.startswith(told)]
        assert f"[{rank}] trained" in child.lines
        assert "trained" in (run / "logs" / f"worker-{rank}.log").read_text()
    told = "--workers behind the script's name: for the script; "
    assert f"{told}options of leash launch stand before it" in child.lines
    assert child.lines[-1] == f"run directory   {run}"
    summary = summary_of(run)
    assert (summary["steps_by_worker"], summary["ended"]) == ({"1": 7, "2": 7}, "done")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["script"] == f"{script} --steps-1=7 --steps-2=7 --workers=9"
    assert (settings["workers"], settings["lr"]) == (2, 0.25)


def test_a_script_that_fails_fails_the_launch_and_stops_nobody(tmp_path: Path, script: str) -> None:
    run = tmp_path / "run"
    with launch(run, script, "--steps-1=30", "--fails=2") as child:
        assert child.wait(100) == 1, "\n".join(child.lines)
    assert child.lines[-1].startswith("leash launch: not trained: worker 2 (failed)")
    assert child.lines[-1].endswith(f"worker 2: ValueError: out of luck (see {run / 'logs'})")
    assert summary_of(run)["steps_by_worker"] == {"1": 30, "2": 1}


def test_of_a_run_that_diverged_nobody_is_told_to_go_on(tmp_path: Path, script: str) -> None:
    words = ["--workers=2", "--lr=1e30", script, "--steps-1=99", "--steps-2=99"]
    with launch(tmp_path / "run", *words) as child:
        assert child.wait(100) == 1, "\n".join(child.lines)
    assert summary_of(tmp_path / "run")["ended"] == WORKERS_FAILED
    told = [line.split()[0] for line in child.lines if line]
    assert "diverged" in told
    assert not [line for line in child.lines if line.startswith("to go on")]
    assert child.lines[-1].count("NonfiniteError") <= 2  # one before an update, one behind it


def test_a_script_that_never_joins_ends_the_launch(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("print('hello')\n")
    with launch(tmp_path / "run", "--workers=1", str(tmp_path / "hello.py")) as child:
        assert child.wait(60) == 1
    assert "[1] hello" in child.lines
    assert (
        "worker 1: ended before the run began: let the script make a leash.PSOptimizer"
        in (child.lines[-1])
    )


def test_a_script_has_all_the_time_it_takes_after_its_training(tmp_path: Path, script: str) -> None:
    """A worker of `leash worker` would be ended 3 s after the server."""
    run, fifo = tmp_path / "run", tmp_path / "fifo"
    os.mkfifo(fifo)
    with launch(run, "--workers=1", script, f"--then={fifo}") as child:
        child.read_until("first step", 60)
        deadline_s = time.monotonic() + 30
        while not (run / "checkpoints" / "final.safetensors").exists():
            assert time.monotonic() < deadline_s
            psutil.wait_procs([], 0.05)
        assert still_running([psutil.Process(child.process.pid)], 4.0)
        fifo.write_text("")
        assert child.wait(30) == 0, "\n".join(child.lines)
    assert "[1] trained and evaluated" in child.lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_copies_end_with_their_launch(tmp_path: Path, script: str, number: int) -> None:
    with launch(tmp_path / "run", script, "--steps-1=1000000000", "--steps-2=1000000000") as child:
        while not {"[1] first step", "[2] first step"} <= set(child.lines):
            child.read_until("first step", 60)
        family = psutil.Process(child.process.pid).children(recursive=True)
        assert len(family) == 3  # server, two copies
        os.kill(child.process.pid, number)
        assert still_running(family, DOWN_WITHIN_S) == []
        assert child.wait(10) == (130 if number == signal.SIGINT else -9)


def test_a_script_that_leaves_the_end_of_its_run_uncaught_ends_in_a_line(
    tmp_path: Path, script: str
) -> None:
    run = tmp_path / "run"
    words = ("--steps-1=100000000", "--steps-2=100000000")
    with launch(run, "--workers=2", "--policy=asp", "--timeout-s=1", script, *words) as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    told = [line for line in child.lines if line.startswith(("[1] ", "[2] "))]
    last = "the run has ended before this script: StoppingError: timeout"
    assert sorted(line for line in told if "words" not in line and "first" not in line) == [
        f"[1] {last}", f"[2] {last}",
    ]  # fmt: skip
    summary = summary_of(run)
    assert summary["ended"] == "timeout"
    assert {part["state"] for part in summary["unfinished"]} == {"timeout"}


# Under torchrun.


def torchrun(folder: Path, *words: str, options: str = "") -> Child:
    """Two processes of one host, unless the words say otherwise."""
    command = ["env", f"LEASH_SERVER_OPTIONS={options}", *TORCHRUN, *words]
    return Child(command, cwd=folder)


def the_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def test_under_torchrun_rank_0_starts_the_server_and_waits_for_the_others(
    tmp_path: Path, script: str
) -> None:
    """RANK 0 has fewer steps: its exit would take the server along."""
    words = ("--standalone", "--nproc-per-node=2", script, "--steps-1=2", "--steps-2=200")
    with torchrun(tmp_path, *words, options="--policy asp --lr 0.25") as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    run = the_run(tmp_path)
    summary = summary_of(run)
    assert (summary["steps_by_worker"], summary["ended"]) == ({"1": 2, "2": 200}, "done")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["policy"], settings["lr"], settings["workers"]) == ("asp", 0.25, 2)
    (told,) = [line for line in child.lines if "started a server" in line]
    assert re.search(r"at tcp://127\.0\.0\.1:\d+; run directory runs/", told)
    assert any(re.search(r"speed +[\d.]+ steps/s \(202 steps in ", line) for line in child.lines)
    assert f"--steps-1=2', '--steps-2=200'] rank {2} " in "\n".join(child.lines)


def test_under_torchrun_on_two_nodes_the_server_is_found_at_the_masters_address(
    tmp_path: Path, script: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                torchrun(tmp_path, "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1",
                         "--master-addr=localhost", f"--master-port={port}", script,
                         options="--insecure")
            )
            for node in range(2)
        ]  # fmt: skip
        for node in nodes:
            assert node.wait(100) == 0, "\n".join(node.lines)
    assert summary_of(the_run(tmp_path))["steps_by_worker"] == {"1": 5, "2": 5}
    assert any("at tcp://localhost:" in line for line in nodes[0].lines)


def test_under_torchrun_a_killed_rank_0_leaves_nothing_behind(tmp_path: Path, script: str) -> None:
    steps = ("--steps-1=1000000000", "--steps-2=1000000000")
    with torchrun(tmp_path, "--standalone", "--nproc-per-node=2", script, *steps) as child:
        line = child.read_until("rank 1 process", 60)
        child.read_until("first step", 60)
        os.kill(int(line.split()[-1]), signal.SIGKILL)
        assert child.wait(60) == 1
