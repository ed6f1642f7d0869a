"""Outages, of processes that a relay cuts off, or that are stopped: all runs end by themselves."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from e2e.outages.rows import require_told
from support.processes import LEASH, Child, pusher, server_process
from support.relays import Cut

WORKERS = 3
STEPS, STEP_S = 150, 0.02
EVICT_S = 1.0
GOES_ON_WITHIN_S = 5.0
LOAD_S = 5.0  # what a machine that others use too may add
NETWORK = ("unshare", "--user", "--map-root-user", "--net")
LONG_S = {False: (3.0,), True: (3.0, 10.0, 40.0, 120.0)}  # with and without `--torture`


@contextmanager
def training(run: Path, *options: str) -> Iterator[tuple[Child, list[Cut], list[Child]]]:
    """A server, and workers that reach it through relays; `set_off` has them push.

    They are as on other hosts: in shared memory, steps would go on without a network.
    """
    with ExitStack() as stack:
        server, address = stack.enter_context(
            server_process(run, f"--workers={WORKERS}", "--lr=0.001", f"--evict-s={EVICT_S}",
                           *options)
        )  # fmt: skip
        cuts = [Cut(address, rank) for rank in range(1, WORKERS + 1)]
        for cut in cuts:
            stack.callback(cut.close)
        workers = [
            stack.enter_context(
                pusher(cut.address, rank, steps=STEPS, step_s=STEP_S, hold=1, transport="tcp")
            )
            for rank, cut in enumerate(cuts, start=1)
        ]
        for worker in workers:
            worker.read_until("joined at")
        yield server, cuts, workers


def set_off(workers: Iterable[Child]) -> None:
    """Returns once each has taken a step."""
    for worker in workers:
        worker.tell("")
    for worker in workers:
        worker.read_until("step ")


def await_line(worker: Child, text: str) -> None:
    """Waits for a line with this text, which may have come before."""
    while not any(text in line for line in worker.lines):
        worker.read_next()


def newest_step(worker: Child) -> int:
    return sum(line.startswith("step ") for line in worker.lines)


def await_step_after(worker: Child, then_s: float) -> float:
    """Waits for a step that was answered after this time; gives its time."""
    seen = 0
    while True:
        for line in worker.lines[seen:]:
            if line.startswith("step ") and float(line.rsplit(" ", 1)[1]) > then_s:
                return float(line.rsplit(" ", 1)[1])
        seen = len(worker.lines)
        worker.read_next(GOES_ON_WITHIN_S + LOAD_S)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("policy", "breaks"), [("bsp", False), ("ssp", True)])
def test_a_run_goes_on_after_an_outage_of_one_of_some_and_of_all(
    policy: str, breaks: bool, tmp_path: Path, torture: bool
) -> None:
    for outage_s in LONG_S[torture]:
        with ExitStack() as stack:
            runs = [
                (count, stack.enter_context(training(tmp_path / f"{outage_s}-{count}",
                                                     f"--policy={policy}")))
                for count in ((1, WORKERS - 1, WORKERS) if torture else (1, WORKERS))
            ]  # fmt: skip
            set_off([worker for _, (_, _, workers) in runs for worker in workers])
            for count, (_, cuts, _) in runs:
                for cut in cuts[:count]:
                    cut.hold()
            time.sleep(outage_s)  # it is as long as it is
            for count, (_, cuts, workers) in runs:
                for cut, worker in zip(cuts[:count], workers, strict=False):
                    await_line(worker, "waiting for the server at")
                    cut.heal(breaks=breaks)
            healed_s = time.monotonic()
            for count, (_, _, workers) in runs:
                for worker in workers[:count]:
                    after_s = await_step_after(worker, healed_s) - healed_s
                    assert after_s < GOES_ON_WITHIN_S + LOAD_S, worker.lines[-5:]
            for _, (server, _, workers) in runs:
                for worker in workers:
                    assert worker.wait(60) == 0, worker.lines[-5:]
                    assert newest_step(worker) == STEPS
                assert server.wait(30) == 0, server.lines
            (_, (_, _, (one, *_))), *_, (_, (_, _, all_of_them)) = runs
            require_told("a worker is unplugged, and plugged in again", worker=one.lines)
            for worker in all_of_them:
                require_told("the network fails between the server and all workers",
                             worker=worker.lines)  # fmt: skip


def has_networks_of_its_own() -> bool:
    """Whether this system lets a test have a network of its own."""
    tried = subprocess.run([*NETWORK, "ip", "link"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which(NETWORK[0]), reason="needs unshare")
def test_a_run_goes_on_soon_after_every_packet_was_lost_for_a_while(
    tmp_path: Path, torture: bool
) -> None:
    """TCP tries again after longer and longer pauses, and does not know of the outage's end."""
    if not has_networks_of_its_own():
        pytest.skip("this system lets nobody have a network of its own")
    outage_s = 40 if torture else 7
    argv = [*NETWORK, sys.executable, __file__, str(tmp_path / "run"), str(outage_s)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for after_s in map(float, done.stdout.split()):
        assert after_s < GOES_ON_WITHIN_S + LOAD_S


@pytest.mark.parametrize("shards", [1, 2])
def test_a_server_that_stood_still_loses_nobody(shards: int, tmp_path: Path, torture: bool) -> None:
    options = ("--policy=bsp", f"--shards={shards}")
    paused_s = 20.0 if torture else 2.5 * EVICT_S
    with training(tmp_path, *options) if shards == 1 else together(tmp_path, *options) as run:
        server, _, workers = run
        set_off(workers)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(paused_s)  # it is as long as it is
        for worker in workers:
            await_line(worker, "waiting for the server at")
        server.process.send_signal(signal.SIGCONT)
        woke_s = time.monotonic()
        for worker in workers:
            assert await_step_after(worker, woke_s) - woke_s < GOES_ON_WITHIN_S + LOAD_S
        for worker in workers:
            assert worker.wait(60) == 0
            assert "joined again" not in worker.lines
            require_told("the server stands still: SIGSTOP, a paused machine", worker=worker.lines)
        assert server.wait(30) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["evictions"] == 0


@contextmanager
def together(run: Path, *options: str) -> Iterator[tuple[Child, list[Cut], list[Child]]]:
    """The same without relays, which know one data port."""
    with ExitStack() as stack:
        server, address = stack.enter_context(
            server_process(run, f"--workers={WORKERS}", "--lr=0.001", f"--evict-s={EVICT_S}",
                           *options)
        )  # fmt: skip
        workers = [
            stack.enter_context(pusher(address, rank, steps=STEPS, step_s=STEP_S, hold=1))
            for rank in range(1, WORKERS + 1)
        ]
        for worker in workers:
            worker.read_until("joined at")
        yield server, [], workers


def test_a_worker_that_hangs_is_named_shows_where_it_is_and_goes_on(tmp_path: Path) -> None:
    with (
        server_process(tmp_path, "--workers=2", "--lr=0.001", "--policy=bsp") as (server, address),
        pusher(address, 1, steps=80, step_s=STEP_S) as waiting,
        pusher(address, 2, steps=80, step_s=STEP_S, hangs_at=10) as hanging,
    ):
        hanging.read_until("hangs")
        for _ in range(60):
            with Child([*LEASH, "status", f"--server={address}", "--stacks"]) as status:
                assert status.wait(30) == 0
            if any("waiting for worker 2 for" in line for line in status.lines):
                break
            time.sleep(0.2)  # the next look at a wait that has to become long
        told = "\n".join(status.lines)
        assert "waiting for worker 2 for" in told
        assert "(in backward since " in told
        assert "sys.stdin.readline()" in told
        hanging.read_until("asked where it is: in backward")
        waiting.read_until("waiting for worker 2 for")
        server.read_until("waiting for worker 2 for 1")
        hanging.tell("")
        server.read_until("nobody waits for worker 2 any more")
        assert waiting.wait() == hanging.wait() == server.wait() == 0


def test_a_worker_that_hangs_is_left_behind_if_that_was_asked_for(tmp_path: Path) -> None:
    with (
        server_process(
            tmp_path, "--workers=2", "--lr=0.001", "--policy=bsp", "--stall-s=1"
        ) as (server, address),
        pusher(address, 1, steps=80, step_s=STEP_S) as waiting,
        pusher(address, 2, steps=80, step_s=STEP_S, hangs_at=10) as hanging,
    ):  # fmt: skip
        hanging.read_until("hangs")
        waiting.read_until("step 12 ", 1 + EVICT_S + LOAD_S)
        hanging.tell("")
        hanging.read_until("joined again")
        assert waiting.wait() == hanging.wait() == server.wait() == 0


KILLS = {False: 1, True: 100}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", ["bsp", "ssp"])
def test_whoever_waits_for_a_killed_worker_stands_still_for_as_long_as_an_eviction_takes(
    policy: str, tmp_path: Path, torture: bool
) -> None:
    chance = random.Random(policy)
    with (
        server_process(
            tmp_path, "--workers=3", "--lr=0.001", f"--policy={policy}", f"--evict-s={EVICT_S}"
        ) as (_, address),
        pusher(address, 1, steps=10**6, step_s=STEP_S) as first,
        pusher(address, 2, steps=10**6, step_s=STEP_S) as second,
    ):
        for _ in range(KILLS[torture]):
            with pusher(address, 3, steps=10**6, step_s=STEP_S) as victim:
                victim.read_until("step ")
                time.sleep(chance.uniform(0.0, 0.2))  # a moment of no meaning
                victim.kill()
                killed_s = time.monotonic()
                victim.wait()
            for survivor in (first, second):
                await_step_after(survivor, killed_s + EVICT_S + 1)
                times = [float(line.rsplit(" ", 1)[1]) for line in survivor.lines
                         if line.startswith("step ")]  # fmt: skip
                since = [t for t in times if t > killed_s - 1]
                still_s = max(later - earlier for earlier, later in pairwise(since))
                assert still_s < EVICT_S + 1 + LOAD_S
                survivor.lines.clear()


def plug(how: str) -> None:
    """Takes the loopback of this process's network up or down."""
    subprocess.run(["ip", "link", "set", "lo", how], check=True)


def unplug(run: Path, outage_s: float) -> None:
    """Trains, loses every packet for so long, and prints when each worker's next step came."""
    plug("up")
    with (
        server_process(run, "--workers=2", "--lr=0.001", "--policy=bsp") as (server, address),
        pusher(address, 1, steps=STEPS, step_s=STEP_S, transport="tcp") as first,
        pusher(address, 2, steps=STEPS, step_s=STEP_S, transport="tcp") as second,
    ):
        for worker in (first, second):
            worker.read_until("step ")
        plug("down")
        time.sleep(outage_s)  # it is as long as it is
        plug("up")
        healed_s = time.monotonic()
        for worker in (first, second):
            print(await_step_after(worker, healed_s) - healed_s)
        assert first.wait(60) == second.wait(60) == server.wait(30) == 0


if __name__ == "__main__":
    unplug(Path(sys.argv[1]), float(sys.argv[2]))
