"""A run that grows from two workers to eight, and shrinks to three, without a restart."""

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from leash.ps.runs.audit import audit_run
from leash.ps.wire.control import ControlChannel, request_state
from support.processes import LEASH, Child, server_process

LEASER = Path(__file__).with_name("leaser.py")
SAMPLES, EPOCHS, BATCH = 600, 2, 5
POLICIES = {"bsp": (), "ssp": ("--bound=3",), "asp": ()}


def events_of(run: Path, *names: str) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] in names]


class Elastic:
    """A server for two to eight workers, and as many of these as a test wants."""

    def __init__(self, folder: Path, policy: str, stack: ExitStack) -> None:
        self.run, self._folder, self._stack = folder / "run", folder, stack
        self.server, self.address = stack.enter_context(
            server_process(self.run, "--workers=2:8", f"--policy={policy}", *POLICIES[policy])
        )
        self.workers: list[Child] = []
        self.brake = folder / "brake"
        self.brake.touch()

    def add(self, count: int) -> None:
        """Starts more workers, and waits until the server knows them."""
        for number in range(len(self.workers), len(self.workers) + count):
            self.workers.append(self._stack.enter_context(Child([
                sys.executable, str(LEASER), f"--server={self.address}", f"--samples={SAMPLES}",
                f"--epochs={EPOCHS}", f"--batch={BATCH}", f"--log={self._folder / 'seen.txt'}",
                f"--brake={self.brake}", f"--preempt-file={self.file_of(number)}",
            ])))  # fmt: skip
        for worker in self.workers[-count:]:
            worker.read_until("rank ")

    def file_of(self, number: int) -> Path:
        return self._folder / f"preempted-{number}"

    def state(self) -> dict[str, Any]:
        with ControlChannel(self.address) as channel:
            return request_state(channel)

    def wait(self, is_so: Callable[[dict[str, Any]], bool]) -> None:
        deadline_s = time.monotonic() + 30
        while not is_so(self.state()):
            assert time.monotonic() < deadline_s, self.state()

    def wait_for_steps(self) -> None:
        """Waits until each worker that is live has taken a few steps more."""
        before = {row["worker"]: row["step"] for row in self.state()["table"]}

        def have_gone_on(state: dict[str, Any]) -> bool:
            rows = [row for row in state["table"] if row["state"] == "live"]
            return all(row["step"] >= before.get(row["worker"], 0) + 3 for row in rows)

        self.wait(have_gone_on)

    def seen(self) -> Counter[tuple[int, int]]:
        """How often each sample of each epoch was trained on, and its push answered."""
        lines = (self._folder / "seen.txt").read_text().splitlines()
        return Counter((int(epoch), int(n)) for epoch, n in map(str.split, lines))


@contextmanager
def elastic(folder: Path, policy: str) -> Iterator[Elastic]:
    with ExitStack() as stack:
        yield Elastic(folder, policy, stack)


@pytest.mark.parametrize("policy", POLICIES)
def test_from_two_workers_to_eight_to_three_every_sample_is_trained_on(
    tmp_path: Path, policy: str
) -> None:
    with elastic(tmp_path, policy) as run:
        run.add(2)
        run.wait_for_steps()
        run.add(6)
        run.wait_for_steps()
        for number in (1, 3, 4, 6, 7):
            run.file_of(number).touch()
        for number in (1, 3, 4, 6, 7):
            assert run.workers[number].wait() == 143
            assert "told: preempted" in run.workers[number].lines
        run.brake.unlink()
        for number in (0, 2, 5):
            assert run.workers[number].wait() == 0, run.workers[number].lines
        assert run.server.wait() == 0, run.server.lines
    wanted = {(e, n) for e in range(1, EPOCHS + 1) for n in range(SAMPLES)}
    seen = run.seen()
    assert seen.keys() == wanted
    assert max(seen.values()) == 1  # who is told to go loses nothing that was answered
    summary = json.loads((run.run / "summary.json").read_text())
    assert (summary["ended"], summary["epochs"], summary["most_at_once"]) == ("done", EPOCHS, 8)
    assert (summary["evictions"], summary["generations"]) == (0, 1)
    assert audit_run(run.run) == []
    lefts = [e["reason"] for e in events_of(run.run, "left") if e["worker"]]
    assert Counter(lefts)["stopped"] == 5
    joins, leaves = ([line for line in run.server.lines if word in line]
                     for word in (" joins; ", " leaves: preempted; "))  # fmt: skip
    assert (len(joins), len(leaves)) == (6, 5)
    factors = [event["factor"] for event in events_of(run.run, "lr_scaled")]
    assert (bool(factors) and max(factors) == 8) == (policy == "bsp")


def test_a_machine_gets_its_rank_back_and_leash_leave_sends_it_away(tmp_path: Path) -> None:
    with elastic(tmp_path, "asp") as run:
        run.add(3)
        ranks = [worker.lines[0] for worker in run.workers]
        assert sorted(ranks) == ["rank 1", "rank 2", "rank 3"]
        run.wait_for_steps()
        rank = ranks[1].split()[1]
        words = [*LEASH, "leave", f"--server={run.address}"]
        with Child([*words, f"--rank={rank}"]) as leave:
            assert leave.wait() == 0
            assert f"told worker {rank} to leave" in leave.lines
        assert run.workers[1].wait() == 143
        run.add(1)
        assert run.workers[-1].lines[0] == ranks[1]
        with Child([*words, "--rank=8"]) as leave:
            assert leave.wait() == 2
            assert "no live worker 8" in "\n".join(leave.lines)
        with Child(words) as leave:  # all of this host
            assert leave.wait() == 0
            assert "told workers 1, 2 and 3 to leave" in leave.lines
        for number in (0, 2, 3):
            assert run.workers[number].wait() == 143


TASK = ("--dataset=digits", "--batch-size=16", "--epochs=400")


def test_leash_worker_pushes_its_pending_local_steps_when_sigterm_tells_it_to_go(
    tmp_path: Path,
) -> None:
    options = ("--workers=1:2", "--policy=asp", "--local-steps=50", "--dataset=digits", "--lr=0.1")
    with server_process(tmp_path / "run", *options, "--epochs=400") as (server, address):
        words = ("worker", f"--server={address}", "--rank=auto", "--slow=0.02", *TASK)
        with Child([*LEASH, *words, f"--save-path={tmp_path}"]) as worker, \
                ControlChannel(address) as channel:  # fmt: skip
            deadline_s = time.monotonic() + 60
            while not ((table := request_state(channel)["table"]) and table[0]["step"]):
                assert time.monotonic() < deadline_s
            worker.process.send_signal(signal.SIGTERM)
            assert worker.wait() == 143
            row = request_state(channel)["table"][0]
            assert row["state"] == "stopped"
            line = server.read_until(" leaves: ")
            assert line.endswith("told to end by SIGTERM, as kill and schedulers do; 0 go on")
            text = "\n".join(worker.lines)
            assert "leash worker 1: told to end by SIGTERM" in text
            assert "Traceback" not in text
            steps = int(text.split(" after ")[1].split()[0])
            # Every sample behind its steps, the pending ones among them, has reached the server.
            assert row["samples"] % 16 == 0
            assert row["step"] >= steps


OWN_LOOP = """
import sys, torch
from leash import PSOptimizer
model = torch.nn.Linear(4, 1)
print("begins", flush=True)
with PSOptimizer(model.named_parameters(), rank="auto") as optimizer:
    print("rank", optimizer.client.rank, flush=True)
    for step in range(10**9):
        optimizer.zero_grad()
        model(torch.ones(8, 4)).sum().backward()
        optimizer.step(samples=8)
        if step == 3:
            print("trains", flush=True)
print("not reached", flush=True)
"""


def test_a_loop_of_ones_own_ends_behind_its_step_without_a_traceback(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(OWN_LOOP)
    with server_process(tmp_path / "run", "--workers=1:4", "--policy=asp") as (server, address):
        argv = ["env", f"LEASH_SERVER={address}", sys.executable, str(script)]
        with Child(argv) as loop:
            loop.read_until("trains")
            loop.process.send_signal(signal.SIGTERM)
            assert loop.wait() == 143
            assert loop.lines[-1] == "trains"
        server.process.send_signal(signal.SIGTERM)
        server.wait()
    (left,) = (e for e in events_of(tmp_path / "run", "left") if e["worker"])
    assert left["reason"] == "stopped"


def test_a_launcher_resizes_its_run_and_tells_it_from_a_failure(tmp_path: Path) -> None:
    run, brake = tmp_path / "run", tmp_path / "brake"
    brake.touch()
    argv = [
        *LEASH, "launch", "--workers=1:3", "--resize=0.1:3,8:1", "--policy=bsp",
        f"--run-dir={run}", str(LEASER), f"--samples={SAMPLES}", f"--epochs={EPOCHS}",
        f"--log={tmp_path / 'seen.txt'}", f"--brake={brake}",
    ]  # fmt: skip
    with Child(argv) as launch:
        while sum("told: SIGTERM" in line for line in launch.lines) < 2:
            launch.read_next()
        brake.unlink()
        assert launch.wait() == 0, "\n".join(launch.lines)
        text = "\n".join(launch.lines)
    assert "was killed" not in text
    assert "failed" not in text
    assert "up to 3 workers may take part" in text
    assert "at most 3 at once, of 1 to 3" in text
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["ended"], summary["epochs"], summary["evictions"]) == ("done", EPOCHS, 0)
    assert sorted(e["worker"] for e in events_of(run, "left") if e["reason"] == "stopped") == [2, 3]
