import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
import pytest

from e2e.outages.rows import require_told
from leash.ps.cli import parse
from leash.ps.options.launch import LaunchOptions
from leash.ps.processes import last_words
from leash.ps.words import WORKERS_FAILED
from support.processes import LOAD_S

DOWN_S: Final = 5.0 + LOAD_S
TRAIN: Final = ("--dataset", "digits", "--workers", "2", "--lr", "0.1", "--batch-size", "100")

LONG: Final = ("--epochs", "1000", "--slow", "0.02")

Process = subprocess.Popen[str]


@contextmanager
def launched(run_dir: Path, *words: str) -> Iterator[Process]:
    """`leash launch` with pipes; afterwards none of its processes may be left."""
    mark = f"LEASH_TEST={run_dir}"
    command = [sys.executable, "-m", "leash.ps.cli", "launch", "--run-dir", str(run_dir), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "LEASH_TEST": str(run_dir)},
    ) as process:  # fmt: skip
        try:
            yield process
            left = [p for p in relatives(mark) if p.pid != process.pid]
            assert not left
        finally:
            for relative in relatives(mark):
                relative.kill()


def relatives(mark: str) -> list[psutil.Process]:
    """The processes that have `NAME=value` in their environment."""
    found = [process for process in psutil.process_iter() if mark in _environment(process)]
    return [process for process in found if process.pid != os.getpid()]


def _environment(process: psutil.Process) -> list[str]:
    """Empty for a process that is ending, or another user's."""
    with suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return [f"{name}={value}" for name, value in process.environ().items()]
    return []


def worker_processes(launcher: Process) -> list[psutil.Process]:
    return [p for p in psutil.Process(launcher.pid).children() if "worker" in p.cmdline()]


def read_until(process: Process, pattern: str) -> str:
    """The output up to the first line that matches."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"{pattern!r} never came; stdout: {seen}")


def test_a_run_is_trained_and_leaves_all_that_a_run_leaves(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(run_dir, *TRAIN, "--epochs", "2", "--slow", "0,0.01", "--bound", "2") as p:
        out, err = p.communicate(timeout=100)
    assert (p.returncode, err) == (0, "")
    assert "starting: waiting for worker" in out
    assert re.search(r"^test accuracy   \d+\.\d+ %$", out, re.MULTILINE)
    assert out.endswith(f"run directory   {run_dir}\n")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["epochs"], summary["ended"]) == (2, "done")
    assert sorted(log.name for log in (run_dir / "logs").iterdir()) == [
        "server.log", "worker-1.log", "worker-2.log",
    ]  # fmt: skip
    _, again = parse(["launch", "--config", str(run_dir / "config.yaml")])
    assert again == LaunchOptions(
        dataset="digits",
        workers=2,
        lr=0.1,
        batch_size=100,
        epochs=2,
        slow="0,0.01",
        bound=2,
        lr_scaling="linear",
    )


def test_a_worker_that_cannot_begin_ends_the_launch_with_its_own_line(tmp_path: Path) -> None:
    with launched(tmp_path / "run", "--model", "mnist_cnn") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert re.fullmatch(r"leash launch: dataset mnist: .*--data-dir.*--download.*\n", err)


def test_a_server_that_cannot_begin_ends_the_launch_with_its_own_line(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launched(run_dir, *TRAIN, "--resume", str(tmp_path / "none")) as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode in (1, 2)
    assert re.fullmatch(r"leash launch: .*none.*\n", err)
    # What it leaves says which run it was to be.
    _, again = parse(["launch", "--config", str(run_dir / "config.yaml")])
    assert again.resume == str(tmp_path / "none")


def test_a_run_directory_that_cannot_be_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with launched(tmp_path / "file" / "run", *TRAIN) as process:
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"leash launch: --run-dir .*: cannot make this folder: .*\n", err)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_the_start_ends_everything(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    with launched(tmp_path / "run", *TRAIN, *LONG) as process:
        read_until(process, "starting a server")
        process.send_signal(number)
        out, err = process.communicate(timeout=DOWN_S)
    assert (process.returncode, err) == (128 + number, "")
    assert f"run directory   {tmp_path / 'run'}" in out
    why = {"SIGINT": "stopped by Ctrl-C", "SIGTERM": "told to end by SIGTERM"}[name]
    assert re.search(rf"ended early     {why}.*, before the first step\n", out)
    assert "to go on" not in out  # there is nothing to go on with


def test_a_signal_during_the_run_ends_everything_and_leaves_a_summary(tmp_path: Path) -> None:
    with launched(tmp_path / "run", *TRAIN, *LONG) as process:
        read_until(process, r"epoch \d+ of 1000, [1-9]\d* steps")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DOWN_S)
    assert (process.returncode, err) == (130, "")
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] >= 1
    assert summary["ended"] == "SIGINT"  # of the two, the first
    assert f"ended early     stopped by Ctrl-C, in epoch {summary['epochs'] + 1} of 1000\n" in out
    (line,) = re.findall(r"to go on +leash (.*)\n", out)
    command, options = parse(shlex.split(line))
    assert command == "launch"
    assert isinstance(options, LaunchOptions)
    assert options.resume == str(run / "checkpoints" / "final.safetensors")
    assert Path(options.resume).exists()
    assert (options.epochs, options.slow, options.workers) == (1000, "0.02", 2)


def test_a_killed_worker_stops_nobody_and_what_is_left_of_its_share_is_told(tmp_path: Path) -> None:
    words = ("--epochs", "20", "--policy", "bsp", "--slow", "0.05", "--len-train-data", "1000")
    with launched(tmp_path / "run", *TRAIN, *words) as process:
        read_until(process, r"epoch \d+ of 20, [1-9]\d* steps")  # so it has told of its share
        worker_processes(process)[1].kill()
        out, err = process.communicate(timeout=100)
    require_told("a worker is killed", launch=out.splitlines())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["epochs"], summary["ended"]) == (20, "incomplete")
    (left,) = summary["unfinished"]
    assert (left["worker"], left["state"]) == (2, "failed")  # as the launcher has told the server
    # Of 20 × 1000 samples those are missing that were not pushed, or were pushed and not answered.
    assert 0 <= left["samples"] - (20 * 1000 - summary["samples"]) <= 100
    told = rf"worker 2 \(failed\): epochs \d+-20 of its share, {left['samples']} samples"
    assert re.search(rf"^not trained     {told}$", out, re.MULTILINE)
    assert process.returncode == 1
    assert re.fullmatch(rf"leash launch: not trained: {told} \(see .*logs\)\n", err)


def test_with_leases_the_others_do_what_a_killed_worker_has_not(tmp_path: Path) -> None:
    words = ("--epochs", "8", "--policy", "ssp", "--slow", "0.05", "--len-train-data", "1000")
    with launched(tmp_path / "run", *TRAIN, *words) as process:
        read_until(process, r"epoch \d of 8")
        worker_processes(process)[1].kill()
        _, err = process.communicate(timeout=100)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (process.returncode, err) == (0, "")
    assert (summary["epochs"], summary["ended"], summary["unfinished"]) == (8, "done", [])


def test_without_any_worker_left_the_run_ends(tmp_path: Path) -> None:
    with launched(tmp_path / "run", *TRAIN, *LONG) as process:
        read_until(process, r"epoch \d+ of 1000, [1-9]\d* steps")
        for worker in worker_processes(process):
            worker.kill()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.fullmatch(r"leash launch: worker 1, worker 2: killed \(see .*logs\)\n", err)
    assert "ended early     its workers failed, in epoch " in out
    assert "run directory" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["ended"] == WORKERS_FAILED


def test_a_worker_that_is_silent_and_comes_back_is_told(tmp_path: Path) -> None:
    with launched(tmp_path / "run", *TRAIN, *LONG) as process:
        read_until(process, r"epoch \d+ of 1000, [1-9]\d* steps")
        worker = worker_processes(process)[0]
        worker.suspend()
        read_until(process, r"worker \d: silent for too long; the run goes on without it")
        worker.resume()
        read_until(process, r"worker \d: back")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DOWN_S)


def test_a_worker_killed_before_the_run_began_ends_the_launch(tmp_path: Path) -> None:
    with launched(tmp_path / "run", *TRAIN) as process:
        read_until(process, "waiting for workers 1-2")
        worker_processes(process)[0].kill()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.fullmatch(r"leash launch: worker 1: killed before the run began .*\n", err)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["ended"] == WORKERS_FAILED


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "ended without a word"),
        ("leash worker 1: waiting\nleash worker: --lr: wrong\n\n", "--lr: wrong"),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("leash evaluate: dataset mnist: no such folder\nleash server: waiting for worker 1\n"
         "leash server: ended after 0 steps: the evaluator ended with status 2\n",
         "dataset mnist: no such folder"),
        ("leash server: ended after 0 steps: the evaluator ended with status 9\n",
         "ended after 0 steps: the evaluator ended with status 9"),
    ],
)  # fmt: skip
def test_the_last_words_of_a_log_say_why_its_process_ended(log: str, words: str) -> None:
    assert last_words(log) == words
