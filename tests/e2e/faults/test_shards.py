"""Several server processes that share a model keep the promises of one, and a lost one is named."""

import bisect
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from e2e.outages.rows import require_told
from leash.ps.errors import EvictedError, UsageError
from leash.ps.options.server import ServerOptions
from leash.ps.runs.rundir import RunDir
from leash.ps.server.loop import SHARD_RESTARTS, Server
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from leash.worker.client.memory import Slab
from support.peers import peers
from support.processes import LOAD_S, Child, own_processes, pusher, server_process, still_running
from support.servers import RunningServer, serving

CHUNK_VALUES = 16 * 1024  # of 64 KiB
LAYOUT = Layout(
    [
        Slot("w", "f32", (5 * CHUNK_VALUES + 7,)),
        Slot("sums", "f64", (3,)),
        Slot("mean", "f32", (8,), "buffer"),
    ]
)
SHARDS = 3
DOWN_WITHIN_S = 5.0 + LOAD_S


def slabs() -> tuple[Slab, Slab]:
    """A gradient of ones, and room for parameters."""
    gradients, parameters = (np.zeros(LAYOUT.nbytes, np.uint8) for _ in range(2))
    gradients[: LAYOUT.slots[0].nbytes].view("<f4")[:] = 1
    return gradients, parameters


def weights(parameters: Slab) -> np.ndarray:
    return parameters[: LAYOUT.slots[0].nbytes].view("<f4")


@pytest.fixture(autouse=True)
def no_shard_is_left() -> Iterator[None]:
    before = {process.pid for process in own_processes()}
    yield
    started = [process for process in own_processes() if process.pid not in before]
    left = [
        process for process in started if "leash.ps.shard.process" in " ".join(words_of(process))
    ]
    assert still_running(left, DOWN_WITHIN_S) == []


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def shard_processes(server: Child) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "leash.ps.shard.process" in child.cmdline()]


# What a run may rely on.


@pytest.mark.parametrize(("policy", "bound"), [("ssp", 2), ("bsp", 0)])
def test_nobody_is_further_ahead_than_the_bound_on_any_shard(policy: str, bound: int) -> None:
    begun = {1: 0, 2: 0}  # steps
    ahead = []

    def work(address: str, rank: int, step_s: float) -> None:
        client, (gradients, parameters) = Client(address, LAYOUT, rank=rank), slabs()
        client.begin(parameters)
        for step in range(1, 61):
            begun[rank] = step
            # Whoever may begin this step has seen the other's push of step - 1 - bound everywhere.
            ahead.append(step - 1 - bound - begun[3 - rank])
            threading.Event().wait(step_s)  # what a step's computing takes
            assert client.push_pull(gradients, parameters, samples=1).lag <= bound
        client.close()

    settings = {"workers": 2, "policy": policy, "bound": bound, "chunk_kib": 64}
    with serving(**settings, shards=SHARDS) as running, ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [running.address] * 2, (1, 2), (0.0, 0.003)))
        assert running.join() == 0
        summary = running.settled().summary()
    assert max(ahead) <= 0
    assert summary["max_lag"] == bound
    assert running.server.shards.first_chunks == [0, 2, 3]


@pytest.mark.parametrize("policy", ["bsp", "ssp", "asp"])
def test_whoever_comes_late_has_one_first_step_for_all_shards(policy: str) -> None:
    """Again and again, while another one pushes as fast as the policy lets it."""
    over = threading.Event()

    def push(client: Client) -> None:
        gradients, parameters = slabs()
        client.begin(parameters)
        while not over.is_set():
            client.push_pull(gradients, parameters, samples=1)
        client.close()

    settings = {"workers": 2, "policy": policy, "chunk_kib": 64, "shards": SHARDS}
    with serving(**settings) as running, ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(push, Client(running.address, LAYOUT, rank=1))
        client, (gradients, parameters) = Client(running.address, LAYOUT, rank=2), slabs()
        try:
            client.begin(parameters)
            for _ in range(25):
                client.push_pull(gradients, parameters, samples=1)
                client.rejoin()
                client.pull(parameters)
            over.set()
        finally:
            over.set()
            client.close()
        pushing.result(10)
        assert running.join() == 0
        assert running.settled().summary()["duplicate_pushes"] == 0


@pytest.mark.parametrize("ahead", [0, 7])
def test_the_first_step_is_new_on_the_shard_that_is_furthest(ahead: int) -> None:
    """asp lets a worker push ten steps of one chunk before the first of another."""
    settings = {"workers": 2, "policy": "asp", "chunk_kib": 64, "shards": SHARDS}
    with serving(**settings) as running:
        first, second = (Client(running.address, LAYOUT, rank=rank) for rank in (1, 2))
        gradients, parameters = slabs()
        first.begin(parameters)
        second.close("stopped")
        push = {"t": "push", "worker": 1, "incarnation": first.welcome.incarnation, "samples": 1}
        owner = bisect.bisect_right(first.welcome.first_chunks, ahead) - 1
        with peers(f"tcp://127.0.0.1:{first.welcome.data_ports[owner]}") as (shard,):
            chunk = first.chunks[ahead]
            for step in range(1, 11):
                header = {**push, "step": step, "chunk": ahead, "codec": chunk.dtype}
                assert shard.ask(header, bytes(chunk.nbytes))[0]["t"] == "ok"
        late = Client(running.address, LAYOUT, rank=2)
        assert late.welcome.first_step == 11
        late.pull(parameters)
        late.push_pull(gradients, parameters, samples=1)
        for client in (first, late):
            client.close()
        assert running.join() == 0


def test_who_is_evicted_is_evicted_on_all_shards() -> None:
    settings = {"workers": 2, "policy": "bsp", "chunk_kib": 64, "shards": SHARDS, "evict_s": 1.0}
    with serving(**settings) as running, ThreadPoolExecutor(1) as pool:
        silent = Client(running.address, LAYOUT, rank=2)
        first, (gradients, parameters) = Client(running.address, LAYOUT, rank=1), slabs()
        first.begin(parameters)
        silent.liveness.stop()
        # bsp: this waits for rank 2 on every chunk, until it is waited for no longer.
        pool.submit(first.push_pull, gradients, parameters, samples=1).result(10)
        data = [f"tcp://127.0.0.1:{port}" for port in running.server.shards.ports]
        with peers(*data) as shards:
            ids = {"worker": 2, "incarnation": silent.welcome.incarnation}
            for shard in shards:
                assert shard.error({"t": "pull", "chunk": 0, "codec": "f32", **ids}) == "evicted"
        with pytest.raises(EvictedError):
            silent.push_pull(gradients, parameters, samples=1)
        silent.close("failed")
        first.close()
        assert running.join() == 1  # what the silent one had still to do is missing


def test_a_push_to_any_shard_is_a_sign_of_life() -> None:
    with serving(workers=1, chunk_kib=64, shards=2, evict_s=1.0) as running:
        client, (_, parameters) = Client(running.address, LAYOUT, rank=1), slabs()
        client.begin(parameters)
        client.liveness.stop()
        ids = {"worker": 1, "incarnation": client.welcome.incarnation}
        with peers(f"tcp://127.0.0.1:{running.server.shards.ports[1]}") as (shard,):
            until_s = time.monotonic() + 2.0
            while time.monotonic() < until_s:
                answer, _ = shard.ask({"t": "pull", "chunk": 7, "codec": "f32", **ids})
                assert answer["t"] == "params", answer
        client.close()
        assert running.join() == 0


def test_a_chunk_is_served_by_its_own_shard_alone() -> None:
    with serving(workers=1, chunk_kib=64, shards=2) as running:
        client, (_, parameters) = Client(running.address, LAYOUT, rank=1), slabs()
        client.begin(parameters)
        ids = {"worker": 1, "incarnation": client.welcome.incarnation, "codec": "f32"}
        first_of_second = client.welcome.first_chunks[1]
        with peers(*(f"tcp://127.0.0.1:{port}" for port in client.welcome.data_ports)) as shards:
            for shard, (own, other) in zip(
                shards, [(0, first_of_second), (first_of_second, 0)], strict=True
            ):
                assert shard.ask({"t": "pull", "chunk": own, **ids})[0]["t"] == "params"
                assert shard.error({"t": "pull", "chunk": other, **ids}) == "unknown_chunk"
        client.close()
        assert running.join() == 0


def test_there_may_be_more_shards_than_chunks() -> None:
    layout = Layout([Slot("w", "f32", (4,))])
    gradients, parameters = np.ones(4, "<f4").view(np.uint8), np.zeros(16, np.uint8)
    with serving(workers=1, lr=1.0, shards=4) as running:
        client = Client(running.address, layout, rank=1)
        client.begin(parameters)
        for _ in range(2):
            for _ in range(3):
                client.push_pull(gradients, parameters, samples=1)
            client.rejoin()
        client.close()
        assert running.join() == 0
    assert parameters.view("<f4").tolist() == [-6.0] * 4


def train(run_dir: Path, shards: int, resume: Path | None, steps: int = 4) -> Path:
    """Some steps with momentum; returns the checkpoint that the run leaves."""
    settings = {"lr": 0.1, "momentum": 0.9, "chunk_kib": 64, "shards": shards}
    given = None if resume is None else str(resume)
    gradients, parameters = slabs()
    with serving(run_dir=RunDir(run_dir), resume=given, **settings) as running:
        client = Client(running.address, LAYOUT, rank=1)
        client.begin(parameters)
        for _ in range(steps):
            client.push_pull(gradients, parameters, samples=1)
        client.close()
        assert running.join() == 0
    return run_dir / "checkpoints" / "final.safetensors"


def test_a_checkpoint_holds_the_model_of_all_shards_and_fits_any_number(tmp_path: Path) -> None:
    expected = load_file(train(tmp_path / "alone", 1, None, steps=12))
    checkpoint = None
    for shards in (2, 1, 4):
        checkpoint = train(tmp_path / f"{shards}", shards, checkpoint)
    assert checkpoint is not None
    result = load_file(checkpoint)
    assert "momentum/w" in result
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        assert result[name].tobytes() == tensor.tobytes(), name


def test_counts_and_events_of_all_shards_are_the_runs(tmp_path: Path) -> None:
    gradients, parameters = slabs()
    weights(gradients)[-1] = np.nan  # in a chunk of shard 2
    run = RunDir(tmp_path / "run")
    settings = {"chunk_kib": 64, "shards": SHARDS, "nonfinite": "skip"}
    with serving(run_dir=run, **settings) as running:
        client = Client(running.address, LAYOUT, rank=1)
        client.begin(parameters)
        client.push_pull(gradients, parameters, samples=1)
        client.close()
        assert running.join() == 0
    summary = json.loads(run.summary.read_text())
    assert summary["nonfinite_chunks"] == 1
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert [(e["chunk"], e["slot"]) for e in events if e["event"] == "nonfinite"] == [(5, "w")]


# Processes that end.


@pytest.mark.parametrize("victim", [0, 1])
def test_after_the_loss_of_a_shard_all_of_them_begin_again_a_few_times_and_then_the_run_ends(
    tmp_path: Path, victim: int
) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, "--workers=2", "--shards=3", "--chunk-kib=64") as (server, address),
        pusher(address, 1, steps=10**9) as first,
        pusher(address, 2, steps=10**9) as second,
    ):
        for again in range(1, SHARD_RESTARTS + 1):
            first.read_until("step ")
            second.read_until("step ")
            lost = shard_processes(server)[victim]
            lost.kill()
            told = f"shard {victim + 1} (process {lost.pid}) was lost: killed by SIGKILL; all "
            line = server.read_until(told)
            assert line.endswith(f"begin again, {again} of {SHARD_RESTARTS}")
            for worker in (first, second):
                worker.read_until("joined again")
        first.read_until("step ")
        lost = shard_processes(server)[victim]
        began_s = time.monotonic()
        lost.kill()
        assert server.wait(DOWN_WITHIN_S) == 1
        for worker in (first, second):
            assert worker.wait(DOWN_WITHIN_S) == 1
        assert time.monotonic() - began_s < DOWN_WITHIN_S
    reason = f"shard {victim + 1} (process {lost.pid}) was lost: killed by SIGKILL"
    assert server.lines[-1].endswith(f": {reason}")
    require_told("a shard's process is killed, of a server with `--shards`", server=server.lines)
    assert not any("Traceback" in line for line in server.lines)
    for worker in (first, second):
        assert any(f"StoppingError: {reason}" in line for line in worker.lines)
    assert json.loads((run / "summary.json").read_text())["ended"] == reason
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    told = [(e["shard"], e["process"], e["how"]) for e in events if e["event"] == "shard_lost"]
    assert told == [(victim + 1, lost.pid, "killed by SIGKILL")]


def test_a_shard_that_is_lost_before_training_has_begun_ends_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, "--workers=2", "--shards=2", "--chunk-kib=64") as (server, address),
        pusher(address, 1, steps=3) as first,
    ):
        server.read_until("waiting for worker 2")
        shard_processes(server)[0].kill()
        server.read_until(f"begin again, 1 of {SHARD_RESTARTS}")
        with pusher(address, 2, steps=3) as second:
            for worker in (first, second):
                worker.read_until("done")
                assert worker.wait(DOWN_WITHIN_S) == 0
        assert server.wait(DOWN_WITHIN_S) == 0
    assert json.loads((run / "summary.json").read_text())["ended"] == "done"


def stopped_shard(running: RunningServer) -> int:
    """Stops one, so that it is there and does nothing; returns its process."""
    pid = running.server.shards.processes[1]
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_shard_that_does_not_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(workers=1, chunk_kib=64, shards=2) as running:
        # Once it is up: to begin takes as long as it takes.
        monkeypatch.setattr("leash.ps.server.shards.remote_shards.ANSWER_S", 1.0)
        pid = stopped_shard(running)
        assert running.join() == 1
    assert running.said[-1].endswith(f"shard 1 (process {pid}) was lost: silent for 1 s")


def test_a_hello_that_meets_a_lost_shard_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leash.ps.server.shards.remote_shards.ANSWER_S", 1.0)
    with serving(workers=1, chunk_kib=64, shards=2) as running, peers(running.address) as (peer,):
        pid = stopped_shard(running)
        hello = {"t": "hello", "role": "worker", "worker": 1, "name": "late"}
        answer, _ = peer.ask(hello, LAYOUT.pack())
        assert (answer["t"], answer["code"]) == ("error", "stopping")
        assert f"shard 1 (process {pid}) was lost: " in answer["text"]
        assert running.join() == 1


def test_a_shard_that_is_told_to_end_ends_the_run_in_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, "--workers=1", "--shards=2") as (server, address),
        pusher(address, 1, steps=10**9) as worker,
    ):
        worker.read_until("step 3 ")
        shard = shard_processes(server)[0]
        shard.terminate()
        assert server.wait(DOWN_WITHIN_S) == 128 + signal.SIGTERM
    told = f"shard 1 (process {shard.pid}) was told to end: SIGTERM"
    assert told in server.lines[-1]
    assert (run / "checkpoints" / "final.safetensors").exists()


def test_shards_end_with_a_coordinator_killed_with_sigkill(tmp_path: Path) -> None:
    with (
        server_process(tmp_path / "run", "--workers=1", "--shards=3") as (server, address),
        pusher(address, 1, steps=10**9) as worker,
    ):
        worker.read_until("step 3 ")
        shards = shard_processes(server)
        assert len(shards) == 2
        server.kill()
        assert still_running(shards, DOWN_WITHIN_S) == []


def test_a_taken_port_of_a_further_shard_is_a_wrong_argument() -> None:
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            options = ServerOptions(bind=f"tcp://127.0.0.1:{port - 2}", shards=2)
            with pytest.raises(UsageError) as raised:
                Server(options, None)
        if f"port {port} is taken" in str(raised.value):
            return  # the two before it are free in most cases
    raise AssertionError(str(raised.value))
