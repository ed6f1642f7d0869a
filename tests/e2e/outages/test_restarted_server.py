"""A server that is killed again and again, and started again; its workers go on by themselves.

Worker *r* pushes -1 for its own values and 0 for all others, at a learning rate of 1. So these
values count how often its steps were applied, on each chunk by itself.
"""

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from safetensors.numpy import load_file

from support.processes import LEASH, LOAD_S, Child, pusher

Told: TypeAlias = dict[str, Any]

WORKERS = 3
STEPS, STEP_S = 150, 0.02
GOES_ON_WITHIN_S = 10.0
VALUES = 100_000  # seven chunks
KILLS = {False: 2, True: 25}  # with and without `--torture`


def free_port() -> int:
    """One behind which two more are free, for the data of two shards."""
    while True:
        with ExitStack() as stack, suppress(OSError):
            probes = [stack.enter_context(socket.socket()) for _ in range(3)]
            probes[0].bind(("127.0.0.1", 0))
            port: int = probes[0].getsockname()[1]
            for further, probe in enumerate(probes[1:], start=1):
                probe.bind(("127.0.0.1", port + further))
            return port


@contextmanager
def server(run: Path, port: int, *options: str) -> Iterator[Child]:
    argv = [
        *LEASH, "server", f"--bind=tcp://127.0.0.1:{port}", f"--run-dir={run}", "--lr=1",
        f"--workers={WORKERS}", "--chunk-kib=64", "--evict-s=5", "--checkpoint-every=10u", *options,
    ]  # fmt: skip
    with Child(argv) as child:
        yield child


def applied(run: Path, rank: int) -> set[float]:
    """How often this worker's steps were applied, over all places where that can be told."""
    tensors = load_file(run / "checkpoints" / "final.safetensors")
    return set(tensors["w"][rank::64].tolist())


def train(run: Path, kills: int, steps: int, *options: str, own: int, transport: str) -> Told:
    """A whole run; gives summary.json."""
    port, draw = free_port(), random.Random(repr((options, transport)))
    with ExitStack() as stack:
        workers: list[Child] = []
        for life in range(kills + 1):
            with server(run, port, *options) as child:
                child.read_until("listening at" if not life else f"server {life + 1} of this run")
                if not life:
                    workers = [
                        stack.enter_context(
                            pusher(f"tcp://127.0.0.1:{port}", rank, steps=steps, step_s=STEP_S,
                                   own=own, transport=transport, values=VALUES)
                        )
                        for rank in range(1, WORKERS + 1)
                    ]  # fmt: skip
                began_s = time.monotonic()
                for worker in workers:
                    worker.read_next()
                    worker.read_until("step ")
                assert time.monotonic() - began_s < GOES_ON_WITHIN_S + LOAD_S
                if life < kills:
                    deadline_s = time.monotonic() + draw.uniform(0.05, 0.8)
                    while time.monotonic() < deadline_s:
                        workers[0].read_next()
                    child.kill()
                    child.wait()
                    continue
                for worker in workers:
                    assert worker.wait(60) == 0
                    if "--policy=bsp" in options:
                        assert not [line for line in worker.lines if "joined again" in line]
                assert child.wait() == 0
    told: Told = json.loads((run / "summary.json").read_text())
    assert (told["ended"], told["generations"]) == ("done", kills + 1)
    assert told["healed_chunks"] > 0
    return told


@pytest.mark.timeout(900)  # with --torture there are many lives
@pytest.mark.parametrize("policy", ["asp", "ssp"])
@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("shards", [1, 2])
def test_no_update_that_a_worker_has_seen_is_lost_or_applied_twice(
    tmp_path: Path, policy: str, transport: str, shards: int, torture: bool
) -> None:
    kills = KILLS[torture]
    steps = STEPS * (1 + kills // 3)
    options = (f"--policy={policy}", f"--shards={shards}")
    told = train(tmp_path, kills, steps, *options, own=1, transport=transport)
    beyond = 0
    for rank in range(1, WORKERS + 1):
        counts = applied(tmp_path, rank)
        # Every step that was answered counts once, everywhere. One without an answer is not pushed
        # again; what another worker was answered with may have it, on some of the chunks.
        assert steps <= min(counts) <= max(counts) <= steps + kills
        beyond += int(max(counts)) - steps
    assert beyond <= told["lost_updates"] <= kills * WORKERS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("shards", [1, 2])
def test_under_bsp_no_step_is_lost_but_for_chunks_that_were_being_written(
    tmp_path: Path, transport: str, shards: int, torture: bool
) -> None:
    kills = KILLS[torture]
    steps = STEPS * (1 + kills // 3)
    # The mean of a step is 1 for the values of each worker, as all take part in each; by the rate
    # of so many workers it is applied WORKERS times.
    told = train(
        tmp_path, kills, steps, "--policy=bsp", f"--shards={shards}", own=WORKERS,
        transport=transport,
    )  # fmt: skip
    for rank in range(1, WORKERS + 1):
        counts = applied(tmp_path, rank)
        assert max(counts) == steps * WORKERS
        assert min(counts) >= (steps - told["lost_updates"]) * WORKERS
    if transport == "tcp":
        assert told["lost_updates"] == 0


def test_who_is_done_offers_what_it_has_to_the_server_that_hears_its_bye(tmp_path: Path) -> None:
    port, steps = free_port(), 30
    address = f"tcp://127.0.0.1:{port}"
    with ExitStack() as stack:
        with server(
            tmp_path, port, "--policy=asp", "--workers=1", "--checkpoint-every=never"
        ) as one:
            one.read_until("listening at")
            worker = stack.enter_context(
                pusher(address, 1, steps=steps, own=1, values=VALUES, holds_at_end=1)
            )
            worker.read_until(f"step {steps} ")
            one.kill()
            one.wait()
        worker.tell("go on")
        with server(
            tmp_path, port, "--policy=asp", "--workers=1", "--checkpoint-every=never"
        ) as two:
            assert worker.wait(60) == 0
            assert two.wait() == 0
    told = json.loads((tmp_path / "summary.json").read_text())
    assert (told["ended"], told["generations"], told["lost_updates"]) == ("done", 2, 0)
    assert applied(tmp_path, 1) == {float(steps)}
