"""SIGINT and SIGTERM at any moment: everything down soon, no orphan, the right status."""

import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from e2e.outages.rows import require_told
from leash.ps.words import why_stopped
from support.processes import (
    LEASH,
    LOAD_S,
    Child,
    own_processes,
    pusher,
    server_process,
    still_running,
)

ALONE_S = 5.0
DOWN_WITHIN_S = ALONE_S + LOAD_S
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """Every process that a test started is gone when it ends."""
    before = {p.pid for p in own_processes()}
    yield
    left = [p for p in own_processes() if p.pid not in before]
    assert [
        _words(p) for p in left if {"leash.ps.cli", "leash.ps.shard.process"} & set(_words(p))
    ] == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def end(child: Child, number: signal.Signals) -> float:
    """Signals it and waits for its end; returns how long that took, in seconds."""
    began_s = time.monotonic()
    os.kill(child.process.pid, number)
    status = child.wait(DOWN_WITHIN_S)
    assert status == STATUS[number], "\n".join(child.lines)
    assert not any("Traceback" in line for line in child.lines), "\n".join(child.lines)
    return time.monotonic() - began_s


def launch_command(run: Path) -> list[str]:
    return [*LEASH, "launch", "--workers=2", "--dataset=digits", "--epochs=100000", "--policy=ssp",
            "--shards=2", f"--run-dir={run}"]  # fmt: skip


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("moment", ["training", "starting", "at random"])
def test_launch(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    run = tmp_path / "run"
    with Child(launch_command(run)) as launch:
        launch.read_until("starting a server")
        if moment == "training":
            launch.read_until("test accuracy", 60)
        elif moment == "at random":
            # Somewhere in the imports of its children, or as they join.
            time.sleep(random.Random(number).uniform(0, 4))
        assert end(launch, number) < DOWN_WITHIN_S
    if moment == "training":
        summary = json.loads((run / "summary.json").read_text())
        assert summary["steps"] > 0
        assert summary["ended"] == number.name  # the launcher hands on what it got


@pytest.mark.alone
def test_on_a_machine_of_its_own_a_launch_is_down_within_5_s(tmp_path: Path) -> None:
    with Child(launch_command(tmp_path / "run")) as launch:
        launch.read_until("test accuracy", 60)
        assert end(launch, signal.SIGINT) < ALONE_S


def test_a_launcher_killed_with_sigkill_takes_its_processes_along(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Child(launch_command(run)) as launch:
        launch.read_until("test accuracy", 60)
        family = psutil.Process(launch.process.pid).children(recursive=True)
        assert len(family) == 5  # server, its second shard, evaluator, two workers
        launch.kill()
        assert still_running(family, DOWN_WITHIN_S) == []
    assert json.loads((run / "summary.json").read_text())["ended"] == "SIGTERM"


@pytest.mark.parametrize(("number", "shards"), [*((number, 1) for number in STATUS), (15, 3)])
def test_server(tmp_path: Path, number: signal.Signals, shards: int) -> None:
    """Its workers are told, and end too."""
    run, number = tmp_path / "run", signal.Signals(number)
    options = ("--workers=2", "--policy=bsp", f"--shards={shards}")
    with (
        server_process(run, *options) as (server, address),
        pusher(address, 1, steps=10**9) as first,
        pusher(address, 2, steps=10**9) as second,
    ):
        first.read_until("step 3 ")
        assert end(server, number) < DOWN_WITHIN_S
        for worker in (first, second):
            assert worker.wait(DOWN_WITHIN_S) == 1
            assert any(f"StoppingError: {number.name}" in line for line in worker.lines)
    assert json.loads((run / "summary.json").read_text())["ended"] == number.name


@pytest.mark.parametrize("number", STATUS)
def test_worker(tmp_path: Path, number: signal.Signals) -> None:
    """It says bye, so that the other one goes on at once."""
    run = tmp_path / "run"
    with (
        server_process(run, "--workers=2", "--policy=bsp") as (server, address),
        Child([*LEASH, "worker", f"--server={address}", "--rank=1", "--dataset=digits",
               "--epochs=100000"]) as interrupted,
        Child([*LEASH, "worker", f"--server={address}", "--rank=2", "--dataset=digits",
               "--epochs=30"]) as other,
    ):  # fmt: skip
        interrupted.read_until("epoch 1", 60)
        assert end(interrupted, number) < DOWN_WITHIN_S
        why = why_stopped(signal.Signals(number).name)
        said = rf"leash worker 1: {why}, in epoch \d+ of 100000 after \d+ steps; the same command"
        assert any(re.match(said, line) for line in interrupted.lines), interrupted.lines
        assert other.wait(60) == 0, "\n".join(other.lines)
        assert server.wait(10) == 1  # nobody had taken over the share of the first
        if number == signal.SIGTERM:
            require_told("a worker is told to end by SIGTERM, as schedulers do, by `leash leave`, "
                         "or by the file of `--preempt-file`",
                         worker=interrupted.lines, server=server.lines)  # fmt: skip
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    left = {e["worker"]: e["reason"] for e in events if e["event"] == "left"}
    assert left == {1: "stopped", 2: "done"}


def test_a_worker_whose_server_is_killed_says_so_and_ends(tmp_path: Path) -> None:
    with (
        server_process(tmp_path / "run", "--workers=1") as (server, address),
        Child([*LEASH, "worker", f"--server={address}", "--dataset=digits", "--epochs=100000",
               "--patience=2"]) as worker,
    ):  # fmt: skip
        worker.read_until("epoch 1", 60)
        server.kill()
        assert worker.wait(20) == 1
    assert worker.lines[-1].startswith("leash worker: no server answers at")
