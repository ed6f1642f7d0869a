"""Ways in which a machine goes, as docs/when-things-fail.md lists them, unless others have them.

Each test compares what people are told with what the document says.
"""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from e2e.outages.rows import require_told
from e2e.outages.test_disks import DISK_NBYTES, fill, mounted
from leash.ps.processes import lasting_address
from support.processes import LEASH, Child, pusher, server_process
from support.relays import Cut

STEP_S: Final = 0.02
FOR_EVER: Final = 10**6  # steps
EVICT: Final = "--evict-s=1"


def await_line(child: Child, *words: str) -> None:
    """Waits for a line with all of these words, which may have come before."""
    while not any(all(word in line for word in words) for line in child.lines):
        child.read_next()


def leash_worker(address: str, *options: str, cwd: Path | None = None) -> Child:
    words = [*LEASH, "worker", f"--server={address}", "--dataset=digits", *options]
    return Child(words, cwd=cwd)


def test_a_machine_that_is_gone_and_one_that_stands_still_are_left_behind_and_come_back(
    tmp_path: Path,
) -> None:
    with (
        ExitStack() as stack,
        server_process(
            tmp_path, "--workers=3", "--policy=ssp", "--bound=2", "--lr=0.001", EVICT
        ) as (server, address),
    ):  # fmt: skip
        cut = Cut(address, 3)
        stack.callback(cut.close)
        first, stopped, gone = (
            stack.enter_context(pusher(where, rank, steps=FOR_EVER, step_s=STEP_S))
            for rank, where in enumerate((address, address, cut.address), start=1)
        )
        for worker in (first, stopped, gone):
            worker.read_until("step 3 ")
        cut.hold()  # so that nobody hears of its end
        gone.kill()
        os.kill(stopped.process.pid, signal.SIGSTOP)
        for rank in (2, 3):
            await_line(server, f"worker {rank} (", "has been silent for")
        for _ in range(10):  # beyond what the bound allows it beside those two
            first.read_until("step ")
        os.kill(stopped.process.pid, signal.SIGCONT)
        await_line(server, "worker 2 (", "is back")
        stopped.read_until("joined again")
        cut.heal(breaks=True)
        with pusher(cut.address, 3, steps=3) as again:
            assert again.wait() == 0
        await_line(server, "worker 3 (", "is back")
    require_told("a worker's machine is gone at once, as in a power cut", server=server.lines)
    require_told("a worker stands still: SIGSTOP, a machine that sleeps", server=server.lines)


def test_a_worker_says_what_happens_to_it_and_to_its_server(tmp_path: Path) -> None:
    with (
        server_process(tmp_path, "--policy=asp", EVICT) as (server, address),
        leash_worker(address, "--epochs=100000") as worker,
    ):
        worker.read_until("epoch 1:", 60)
        os.kill(worker.process.pid, signal.SIGSTOP)
        await_line(server, "has been silent for")
        os.kill(worker.process.pid, signal.SIGCONT)
        await_line(server, "is back")
        worker.read_until("epoch ")
        server.process.terminate()
        assert server.wait() == 128 + signal.SIGTERM
        assert worker.wait() == 1
    require_told("a worker stands still: SIGSTOP, a machine that sleeps", worker=worker.lines)
    require_told("the server is told to end: SIGTERM, Ctrl-C", server=server.lines,
                 worker=worker.lines)  # fmt: skip
    assert (tmp_path / "checkpoints" / "final.safetensors").exists()


HUNGRY: Final = """
import torch

class Hungry(torch.nn.Linear):
    def forward(self, inputs):
        torch.empty(1 << 55)  # of which no machine has so many

def build():
    return Hungry(64, 10)
"""


def test_a_worker_without_memory_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    with (
        server_process(tmp_path / "run", "--policy=asp") as (_, address),
        leash_worker(address, "--model=hungry:build", cwd=tmp_path) as worker,
    ):
        assert worker.wait(60) == 1
    require_told("a worker has no memory, or a GPU has none", worker=worker.lines)
    assert not any("Traceback" in line for line in worker.lines)


def test_a_worker_whose_disk_is_full_has_done_its_part(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={DISK_NBYTES}", "leash"),
        server_process(tmp_path / "run", "--policy=asp") as (server, address),
        leash_worker(
            address, "--epochs=2", "--slow=0.02", f"--save-path={tmp_path / 'disk' / 'out'}"
        ) as worker,
    ):  # fmt: skip
        worker.read_until("epoch 1:", 60)
        fill(tmp_path / "disk")
        assert worker.wait() == 1
        assert server.wait() == 0
        assert not list((tmp_path / "disk" / "out").glob("*.safetensors*"))
    require_told("a worker's disk is full", worker=worker.lines)
    assert not any("Traceback" in line for line in worker.lines)


def test_workers_find_a_server_again_whose_machine_was_gone(tmp_path: Path) -> None:
    options = (
        "--workers=2", "--policy=asp", "--lr=0.001", "--checkpoint-every=5u",
        f"--bind={lasting_address(2)}",
    )  # fmt: skip
    with ExitStack() as stack:
        with server_process(tmp_path, *options) as (server, address):
            cuts = [Cut(address, rank) for rank in (1, 2)]
            for cut in cuts:
                stack.callback(cut.close)
            workers = [
                stack.enter_context(
                    pusher(cut.address, rank, steps=100, step_s=STEP_S, transport="tcp")
                )
                for rank, cut in enumerate(cuts, start=1)
            ]
            for worker in workers:
                worker.read_until("step 10 ")
            for cut in cuts:
                cut.hold()
            server.kill()
            server.wait()
        with server_process(tmp_path, *options) as (server, address):
            for worker in workers:
                await_line(worker, "waiting for the server at")
            for cut in cuts:
                cut.heal(breaks=False)
            for worker in workers:
                assert worker.wait(60) == 0, worker.lines[-5:]
            assert server.wait() == 0
    for worker in workers:
        require_told("the server's machine is gone at once, and comes back", worker=worker.lines,
                     server=server.lines)  # fmt: skip


def test_a_server_without_memory_for_a_model_says_so_and_stays(tmp_path: Path) -> None:
    with server_process(tmp_path, "--workers=1") as (server, address):
        process = psutil.Process(server.process.pid)
        most = process.memory_info().vms + (64 << 20)
        process.rlimit(psutil.RLIMIT_AS, (most, most))
        with pusher(address, 1, steps=1, values=100_000_000) as large:
            assert large.wait() == 1
        require_told("the server has no memory", worker=large.lines)
        with pusher(address, 1, steps=1, values=1000) as small:
            assert small.wait() == 0
        assert server.wait() == 0
    assert not any("Traceback" in line for line in server.lines)
