"""Real disks that are full, read-only or slow lose no run, and its model is always to be had."""

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from e2e.outages.rows import require_told
from leash.ps.runs.audit import audit_run
from leash.ps.runs.download import download_checkpoint
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from support.processes import LEASH, Child, server_process

VALUES = 200_000  # 800 KB
LAYOUT = Layout([Slot("w", "f32", (VALUES,))])
DISK_NBYTES = 4 << 20
OPTIONS = ("--policy=asp", "--workers=1", "--lr=1", "--chunk-kib=64", "--evict-s=900")


class Worker:
    """Takes 1 from every value in each step, so that the values tell how many there were."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = Client(address, LAYOUT, rank=1, transport="tcp")
        self.steps = 0
        self._gradient = np.ones(VALUES, np.float32).view(np.uint8)
        self._values = np.zeros(VALUES, np.float32).view(np.uint8)
        self.client.begin(self._values)

    def train_while(self, goes_on: Callable[[], bool], most: int = 20_000) -> int:
        """Trains as long as that is true; gives the number of steps."""
        before = self.steps
        while goes_on():
            self.client.push_pull(self._gradient, self._values, samples=1)
            self.steps += 1
            assert self.steps - before < most, "what is waited for does not come"
        return self.steps - before

    def not_written(self) -> set[str]:
        """The files of which the server's status says that they cannot be written."""
        with ControlChannel(self.address) as channel:
            told = request_state(channel)["not_written"]
        return {line.split(":")[0] for line in told}

    def require_in(self, path: Path) -> None:
        """Requires that a checkpoint has the values of all steps."""
        assert set(load_file(path)["w"].tolist()) == {-float(self.steps)}


@contextmanager
def working(run: Path, *options: str) -> Iterator[tuple[Child, Worker]]:
    with server_process(run, *OPTIONS, *options) as (server, address):
        worker = Worker(address)
        try:
            yield server, worker
        finally:
            with suppress(Exception):  # a second close, or that of a test which has failed
                worker.client.close()


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Mounts something there, where this is allowed."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *words, folder], capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount anything")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={DISK_NBYTES}", "leash"):
        yield tmp_path / "disk"


def fill(disk: Path) -> Path:
    """Leaves no room on a disk."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def latest_of(run: Path) -> Path:
    return run / "checkpoints" / "latest.safetensors"


def fill_page_of(lines: Path) -> None:
    """Leaves no room behind the last line of a file on a full disk either."""
    with suppress(OSError), lines.open("ab", buffering=0) as file:
        while True:
            file.write(b"\n")


@pytest.mark.parametrize("mend", ["room", "fetched", "Ctrl-C"])
def test_a_run_goes_through_a_full_disk_and_its_model_is_there_in_the_end(
    tmp_path: Path, small_disk: Path, mend: str
) -> None:
    run = small_disk / "run"
    with working(run, "--checkpoint-every=0.1s") as (server, worker):
        worker.train_while(lambda: not latest_of(run).exists())
        ballast = fill(small_disk)
        good = load_file(latest_of(run))["w"][0]
        # Checkpoints and events fail within some steps; the run goes on, and its status says so.
        worker.train_while(lambda: worker.not_written() != {"checkpoints", "events.jsonl"})
        assert load_file(latest_of(run))["w"][0] <= good  # a whole one, of then or later
        worker.client.close()
        told = server.read_until("leash save")
        assert "cannot write the last checkpoint" in told  # summary.json may find a free page
        assert f" to {run}: " in told
        assert f"leash save --server {worker.address} FILE" in told
        if mend == "room":
            ballast.unlink()
            assert server.wait() == 0
            worker.require_in(run / "checkpoints" / "final.safetensors")
            summary = json.loads((run / "summary.json").read_text())
            assert (summary["ended"], summary["steps"]) == ("done", worker.steps)
            told_of = summary["not_written"]
            assert {"checkpoints", "events.jsonl"} <= told_of.keys()
            assert not any(of["lasts"] for of in told_of.values())
            assert audit_run(run) == []  # every event has waited in memory
            require_told("the server's disk is full, read-only or slow", server=server.lines)
        elif mend == "fetched":
            with ControlChannel(worker.address) as channel:
                download_checkpoint(channel, tmp_path / "here.safetensors")
            worker.require_in(tmp_path / "here.safetensors")
            assert server.wait() == 1
        else:
            server.process.send_signal(signal.SIGINT)
            assert server.wait() == 1
        warnings = [line for line in server.lines if "WARNING: cannot write" in line]
        assert len(warnings) == len(set(warnings))  # of each file once, and of the wait


def test_a_run_whose_checkpoints_are_read_only_goes_on_and_writes_them_once_they_are_not(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    folder = latest_of(run).parent
    folder.mkdir(parents=True)
    with mounted(folder, "-t", "tmpfs", "-o", f"size={DISK_NBYTES}", "leash"):
        with working(run, "--checkpoint-every=0.1s") as (server, worker):
            worker.train_while(lambda: not latest_of(run).exists())
            remount = ["mount", "-o", "remount,ro", folder]
            # It is busy while a checkpoint is being written there.
            worker.train_while(lambda: subprocess.call(remount, stderr=subprocess.DEVNULL) != 0)
            worker.train_while(lambda: worker.not_written() != {"checkpoints"})
            before = latest_of(run).stat().st_mtime_ns
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
            worker.train_while(lambda: latest_of(run).stat().st_mtime_ns == before)
            server.read_until("can write checkpoints again")
            worker.client.close()
            assert server.wait() == 0
        worker.require_in(folder / "final.safetensors")


def test_a_server_that_is_started_again_begins_as_soon_as_its_disk_takes_its_journal(
    small_disk: Path,
) -> None:
    run = small_disk / "run"
    argv = [*LEASH, "server", "--bind=tcp://127.0.0.1:0", f"--run-dir={run}", *OPTIONS]
    with Child(argv) as server:
        server.read_until("waiting for worker")
        server.kill()
    ballast = fill(small_disk)
    fill_page_of(run / "journal.jsonl")
    with Child(argv) as server:
        told = server.read_until("the server begins as soon as it can: make room there")
        assert f"cannot write {run / 'journal.jsonl'}: No space left on device" in told
        ballast.unlink()
        server.read_until("server 2 of this run")
        server.read_until("waiting for worker")
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 130


SLOW = """
#include <stdio.h>
#include <unistd.h>
static int wait_for_disk(void) {
  unsigned seconds = SECONDS;
  FILE *file = fopen("FOLDER/slow", "r");  /* which may say otherwise meanwhile */
  if (file) { (void)!fscanf(file, "%u", &seconds); fclose(file); }
  sleep(seconds);
  return 0;
}
int fsync(int fd) { (void)fd; return wait_for_disk(); }
int fdatasync(int fd) { (void)fd; return wait_for_disk(); }
"""
LOOK_AGAIN = threading.Event()  # that nobody sets


def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Has processes that are started from now on wait so long for each file that they force."""
    source, library = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(SLOW.replace("SECONDS", str(seconds)).replace("FOLDER", str(tmp_path)))
    command = ["cc", "-shared", "-fPIC", "-o", library, source]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no C compiler")
    monkeypatch.setenv("LD_PRELOAD", str(library))


def test_a_disk_that_takes_long_for_a_checkpoint_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torture: bool
) -> None:
    seconds, run = 30 if torture else 1, tmp_path / "run"
    slow_disk(tmp_path, monkeypatch, seconds)
    with working(run, "--checkpoint-every=0.1s", "--evict-s=1") as (server, worker):
        monkeypatch.delenv("LD_PRELOAD")
        beside = latest_of(run).with_name("latest.safetensors.unfinished")
        worker.train_while(lambda: not (beside.exists() and beside.stat().st_size > 4 * VALUES))
        # Meanwhile others come to many steps.
        assert worker.train_while(lambda: not latest_of(run).exists(), 10**9) > 50
        with ControlChannel(worker.address) as channel:
            assert request_state(channel)["evictions"] == 0
        worker.client.close()
        assert server.wait(5 * seconds + 30) == 0
    worker.require_in(run / "checkpoints" / "final.safetensors")
    assert not any("WARNING" in line for line in server.lines)
    assert os.listdir(run / "checkpoints") == ["final.safetensors"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_launch_that_is_ended_waits_for_a_slow_disk_until_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torture: bool, times: int
) -> None:
    seconds = 60 if times == 2 else 30 if torture else 5  # more than a launch gives at first
    run = tmp_path / "run"
    words = ["--workers=1", "--policy=asp", "--dataset=digits", "--epochs=1000"]
    slow_disk(tmp_path, monkeypatch, 0)
    with Child([*LEASH, "launch", f"--run-dir={run}", "--checkpoint-every=never", *words]) as child:
        monkeypatch.delenv("LD_PRELOAD")
        log = run / "logs" / "server.log"
        while not (log.exists() and " steps, " in log.read_text()):
            LOOK_AGAIN.wait(0.05)
        (tmp_path / "slow").write_text(str(seconds))
        child.process.send_signal(signal.SIGINT)
        child.read_until("Ctrl-C again gives up")
        if times == 2:
            child.process.send_signal(signal.SIGINT)
        assert child.wait(3 * seconds + 30) == 130
    final = run / "checkpoints" / "final.safetensors"
    assert final.exists() == (run / "summary.json").exists() == (times == 1)


def test_a_disk_that_hangs_holds_up_nobody_and_has_every_event_once_it_answers(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    os.mkfifo(run / "events.jsonl")
    end = os.open(run / "events.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    with working(run, "--step-events=1", "--evict-s=5", "--checkpoint-every=never") as (
        server, worker
    ):  # fmt: skip
        worker.train_while(lambda: worker.not_written() != {"events.jsonl"})
        at_s = time.monotonic() + 6.0
        longest_s = 0.0
        while time.monotonic() < at_s:
            began_s = time.monotonic()
            steps = worker.steps + 10
            worker.train_while(lambda steps=steps: worker.steps < steps)  # type: ignore[misc]
            longest_s = max(longest_s, time.monotonic() - began_s)
        assert longest_s < 4.0
        with open(end, "rb", buffering=0) as events, ThreadPoolExecutor(1) as reader:
            os.set_blocking(events.fileno(), True)
            reading = reader.submit(events.read)
            worker.train_while(lambda: bool(worker.not_written()))
            worker.client.close()
            assert server.wait() == 0
            lines = [json.loads(line) for line in reading.result().splitlines()]
    told = json.loads((run / "summary.json").read_text())
    assert (told["evictions"], told["events_missing"]) == (0, 0)
    pushed = [line["step"] for line in lines if line["event"] == "push"]
    assert pushed == list(range(1, worker.steps + 1))
