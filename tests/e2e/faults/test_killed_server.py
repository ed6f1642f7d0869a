"""A server that was killed, and is started again with the same command line."""

import json
import random
import threading
import time
from pathlib import Path

import psutil
import pytest

from e2e.outages.rows import require_told
from leash.ps.runs.audit import audit_run
from support.processes import LEASH, Child, pusher, server_process

LOOK_AGAIN = threading.Event()  # that nobody sets
OPTIONS = ("--workers=1", "--policy=asp", "--lr=0.1", "--checkpoint-every=3u")


@pytest.mark.parametrize("shards", [1, 2])
def test_the_same_command_goes_on_with_the_run_and_fresh_begins_anew(
    tmp_path: Path, shards: int
) -> None:
    run_dir, options = tmp_path / "run", (*OPTIONS, f"--shards={shards}")
    with (
        server_process(run_dir, *options) as (server, address),
        pusher(address, 1, steps=10**6, step_s=0.05) as worker,
    ):
        worker.read_until("step 20 ")
        await_checkpoint(run_dir)
        server.process.kill()
        server.wait()
    assert not (run_dir / "summary.json").exists()

    with server_process(run_dir, *options) as (server, address):
        server.read_until("server 2 of this run")
        assert any("goes on from" in line for line in server.lines)
        with pusher(address, 1, steps=3) as worker:
            assert worker.wait() == 0
        assert server.wait() == 0
    told = json.loads((run_dir / "summary.json").read_text())
    assert (told["ended"], told["generations"]) == ("done", 2)
    assert told["steps"] >= 3  # and those of the first server, as far as it has noted them
    assert (run_dir / "events-1.jsonl").exists()
    assert audit_run(run_dir) == []

    argv = [*LEASH, "server", "--bind=tcp://127.0.0.1:0", f"--run-dir={run_dir}", *options]
    with Child(argv) as refused:
        assert refused.wait() == 2
        assert "the run there is done; take another, or begin anew with --fresh" in str(
            refused.lines
        )

    with server_process(run_dir, *options, "--fresh") as (server, address):
        with pusher(address, 1, steps=2) as worker:
            assert worker.wait() == 0
        assert server.wait() == 0
    told = json.loads((run_dir / "summary.json").read_text())
    assert (told["generations"], told["steps"]) == (1, 2)
    before = json.loads((run_dir / "before-1" / "summary.json").read_text())
    assert before["generations"] == 2


TRAIN = (
    "launch", "--dataset=digits", "--workers=2", "--lr=0.05", "--checkpoint-every=10u",
    "--slow=0.02",
)  # fmt: skip
# What keeps more than parameters, the samples leased or in shares of the workers' own.
OPTIMIZERS = {
    "sgd, leases": ("--policy=ssp", "--bound=2"),
    "momentum, leases": ("--policy=ssp", "--bound=2", "--momentum=0.5", "--lr=0.02"),
    "adam, leases": ("--policy=asp", "--optimizer=adam", "--lr=0.001"),
    "adam, bsp": ("--policy=bsp", "--optimizer=adam", "--lr=0.001"),
}


def server_of(launch: Child) -> psutil.Process:
    """The server that a launcher has started last."""
    children = psutil.Process(launch.process.pid).children()
    return next(child for child in children if "server" in child.cmdline())


def await_checkpoint(run: Path) -> None:
    """Waits until the run has written a checkpoint, for as long as a test may take."""
    while not (run / "checkpoints" / "latest.safetensors").exists():
        LOOK_AGAIN.wait(0.05)


def listens_at(process: psutil.Process) -> list[int]:
    """The ports of a process and of those that it has started.

    Each counts once: a child that is just being started still has those of its parent.
    """
    family = [process, *process.children()]
    places = [place for each in family for place in each.net_connections("tcp")]
    return sorted({place.laddr.port for place in places if place.status == psutil.CONN_LISTEN})


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_launch_starts_a_killed_server_again_and_its_workers_go_on(
    tmp_path: Path, optimizer: str, torture: bool
) -> None:
    run, kills, chance = tmp_path / "run", 20 if torture else 1, random.Random(1)
    argv = [
        *LEASH, *TRAIN, *OPTIMIZERS[optimizer], f"--run-dir={run}", "--shards=2",
        f"--epochs={10 * kills}",
        *([f"--server-restarts={kills}"] if torture else []),
    ]  # fmt: skip
    with Child(argv) as launch:
        await_checkpoint(run)
        ports = listens_at(server_of(launch))
        for kill in range(1, kills + 1):
            killed = server_of(launch)
            killed.kill()
            launch.read_until(f"started again, {kill} of {max(kills, 3)}")
            launch.read_until("goes on from")
            assert server_of(launch).pid != killed.pid
            assert listens_at(server_of(launch)) == ports
            if kill < kills:
                time.sleep(chance.uniform(0.0, 3.0))  # a moment of no meaning
        assert launch.wait(60 * kills) == 0, launch.lines
    told = json.loads((run / "summary.json").read_text())
    assert (told["ended"], told["generations"]) == ("done", 1 + kills)
    assert told["epochs"] == 10 * kills
    server = (run / "logs" / "server.log").read_text()
    require_told("the server is killed", launch=launch.lines, server=server.splitlines())
    assert "server 2 of this run" in server
    policy = OPTIMIZERS[optimizer][0].partition("=")[2]
    assert f"started, {policy}" in server  # of the first server: its log goes on
    assert told["test_accuracy"] > 0.9


def test_a_launch_ends_with_a_server_that_is_killed_once_too_often(tmp_path: Path) -> None:
    argv = [
        *LEASH,
        *TRAIN,
        *OPTIMIZERS["sgd, leases"],
        f"--run-dir={tmp_path / 'run'}",
        "--epochs=1000",
    ]
    with Child([*argv, "--server-restarts=1"]) as launch:
        await_checkpoint(tmp_path / "run")
        server_of(launch).kill()
        launch.read_until("goes on from")
        server_of(launch).kill()
        assert launch.wait() == 1
    assert any("the server was killed (SIGKILL); started again, 1 of 1" in x for x in launch.lines)
    assert launch.lines[-1].startswith("leash launch: server: killed ")


def test_a_server_that_is_killed_has_left_its_events_up_to_the_last_second(tmp_path: Path) -> None:
    with (
        server_process(tmp_path, *OPTIONS) as (server, address),
        pusher(address, 1, steps=10**6, step_s=0.05) as worker,
    ):
        worker.read_until("step 30 ")
        server.kill()
        server.wait()
    taken = [line.split() for line in worker.lines if line.startswith("step ")]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    lost = [float(at) for _, step, _, _, _, at in taken if int(step) > len(steps)]
    assert not lost or lost[-1] - lost[0] < 1


def test_a_newest_checkpoint_that_is_damaged_is_passed_over(tmp_path: Path) -> None:
    run_dir, options = tmp_path / "run", ("--workers=1", "--policy=asp", "--lr=0.1")
    for server_is_killed in (True, False):
        with server_process(run_dir, *options, "--checkpoint-every=2u") as (server, address):
            if not server_is_killed:
                server.read_until("server 2 of this run")
                assert any("latest.safetensors: not a readable" in line for line in server.lines)
            with pusher(address, 1, steps=10**6 if server_is_killed else 2, step_s=0.05) as worker:
                worker.read_until("step 2 ")
                if server_is_killed:
                    worker.read_until("step 15 ")
                    await_checkpoint(run_dir)
                    server.process.kill()
                    server.wait()
        latest = run_dir / "checkpoints" / "latest.safetensors"
        if server_is_killed:
            content = bytearray(latest.read_bytes())
            content[-1] ^= 1
            latest.write_bytes(content)
