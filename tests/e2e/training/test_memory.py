"""Memory. The server's: 2 × the model, and workers × the model while every reply is parked; a
worker's: the model, two slabs and a window.
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from leash.ps.wire.control import ControlChannel, request_state
from support.processes import Child, pusher, server_process

MODEL_NBYTES = 256 * 10**6
WORKERS = 4
MEMORY_WORKER = Path(__file__).parents[2] / "support" / "memory_worker.py"
WORKER_SLACK_NBYTES = 60 * 10**6  # torch's optimizers, which are imported meanwhile
SLACK_NBYTES = 200 * 10**6  # the interpreter, its libraries, and what ZeroMQ is just receiving


@pytest.mark.timeout(300)
def test_with_all_replies_parked_it_is_at_most_the_stated_sum(tmp_path: Path) -> None:
    """Momentum is the second copy of the model. Three of four workers have pushed all they have."""
    options = ("--policy=bsp", f"--workers={WORKERS}", "--momentum=0.9", "--window=512")
    values = MODEL_NBYTES // 4
    with server_process(tmp_path / "run", *options) as (server, address), ExitStack() as stack:
        workers = [
            stack.enter_context(
                pusher(
                    address, rank, steps=2, values=values, hold=int(rank == WORKERS), fill_window=1
                )
            )
            for rank in range(1, WORKERS + 1)
        ]
        workers[-1].read_until("joined", 120)
        await_parked(address, (WORKERS - 1) * 245)
        parked = psutil.Process(server.process.pid).memory_info().rss
        workers[-1].tell("go on")
        for worker in workers:
            assert worker.wait(120) == 0, worker.lines
        assert server.wait(60) == 0
    # Three are parked: what the fourth would add is still missing.
    assert parked <= (2 + WORKERS - 1) * MODEL_NBYTES + SLACK_NBYTES
    assert parked >= (1 + WORKERS - 1) * MODEL_NBYTES  # or it was not measured while parked


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_a_worker_holds_its_model_two_slabs_and_a_window(tmp_path: Path, transport: str) -> None:
    """One layer is all of it, so its gradient stands in for the model that is in a slab itself."""
    side = 5000
    model_nbytes, window_nbytes = 4 * side * side, 16 << 20
    with server_process(tmp_path / "run", "--workers=1") as (server, address):
        argv = [sys.executable, str(MEMORY_WORKER), address, transport, str(side)]
        with Child(argv) as worker:
            grown = int(worker.read_until("grown ", 120).split()[1])
            assert worker.wait(60) == 0
        assert server.wait(60) == 0
    assert grown <= 3 * model_nbytes + 2 * window_nbytes + WORKER_SLACK_NBYTES
    assert grown >= 2 * model_nbytes  # or it was not measured


def await_parked(address: str, replies: int) -> None:
    """Returns once so many replies wait in the server."""
    with ControlChannel(address) as channel:
        for _ in range(100_000):
            if request_state(channel)["parked"] >= replies:
                return
    raise AssertionError(f"never were {replies} replies parked")
