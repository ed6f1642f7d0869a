"""Every sample once an epoch, whoever is slow; at least once, whoever is killed."""

import fcntl
import json
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from leash.ps.runs.audit import audit_run
from leash.ps.wire.control import ControlChannel, request_state
from support.contract import Worker, joined, packed
from support.peers import peers
from support.processes import LEASH, Child, server_process
from support.servers import serving

SAMPLES = 400
# A data set that writes down, for each process, which training samples it was asked for. The first
# is a probe: whoever loads the data set looks at the shape of sample 0. Where a test has a gate,
# each of them then reports that it trains, and waits until the gate is opened.
SOURCE = f"""
import fcntl
import os
import torch

class Digits(torch.utils.data.Dataset):
    classes = ["even", "odd"]

    def __init__(self, size, log):
        self.size, self.log = size, log
        self.asked = 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if self.log:
            with open(f"seen-{{os.getpid()}}.txt", "a") as file:
                file.write(f"{{index}}\\n")
            self.asked += 1
            if self.asked == 2 and os.path.exists("gate"):
                with open("gate", "wb", buffering=0) as gate:
                    gate.write(b".")
                    fcntl.flock(gate, fcntl.LOCK_SH)
        return torch.tensor([index % 2, 1.0]), index % 2

def build():
    return torch.nn.Linear(2, 2)

def data():
    return Digits({SAMPLES}, log=True), Digits(10, log=False)
"""
TASK = (
    "--model=counted:build", "--dataset=counted:data", "--loader-workers=0", "--batch-size=10",
)  # fmt: skip


def write_source(folder: Path) -> None:
    (folder / "counted.py").write_text(SOURCE)


def seen(folder: Path) -> Counter[int]:
    """How often each sample was asked for, by all processes together."""
    counts: Counter[int] = Counter()
    for path in folder.glob("seen-*.txt"):
        counts.update(int(line) for line in path.read_text().splitlines()[1:])
    return counts


@contextmanager
def gate(folder: Path, workers: int) -> Iterator[None]:
    """The body starts so many workers; none of them trains before all of them have a lease."""
    path = folder / "gate"
    os.mkfifo(path)
    with path.open("r+b", buffering=0) as pipe:
        fcntl.flock(pipe, fcntl.LOCK_EX)
        yield
        for _ in range(workers):
            readable, _, _ = select.select([pipe], [], [], 60)
            assert readable, "not all of them train"
            pipe.read(1)


def summary_of(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


@pytest.mark.parametrize(
    "options",
    [
        ("--policy=asp",),
        ("--policy=ssp", "--bound=2", "--shards=2"),
        ("--policy=bsp", "--data-plan=lease"),
        ("--policy=bsp", "--batch-plan=weighted"),
    ],
    ids=" ".join,
)
def test_every_sample_is_used_exactly_once_an_epoch(tmp_path: Path, options: Sequence[str]) -> None:
    write_source(tmp_path)
    run = tmp_path / "run"
    command = [
        *LEASH, "launch", *TASK, *options, "--workers=4", "--epochs=5", f"--run-dir={run}",
        "--slow=0,0.005,0.01,0.02",
    ]  # fmt: skip
    with Child(command, cwd=tmp_path) as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    assert seen(tmp_path) == Counter(dict.fromkeys(range(SAMPLES), 5))
    summary = summary_of(run)
    assert (summary["samples"], summary["samples_twice"]) == (5 * SAMPLES, 0)
    assert (summary["epochs"], summary["data_plan"], summary["ended"]) == (5, "lease", "done")
    assert len(summary["test_accuracy_by_epoch"]) == 5
    assert summary["evictions"] == summary["refused_messages"] == 0
    assert audit_run(run) == []


NORMALIZED = """
import torch
from torch.nn import BatchNorm1d, Linear, Sequential

def build():
    return Sequential(Linear(3, 4), BatchNorm1d(4), Linear(4, 2))

def data():
    train = (torch.randn(67, 3), torch.arange(67) % 2)
    return train, (torch.randn(10, 3), torch.arange(10) % 2)
"""


@pytest.mark.parametrize(
    "options",
    [("--policy=asp", "--batch-size=11"), ("--policy=bsp", "--batch-size=3")],
    ids=["leases, one left over", "shares, one left over of one of them"],
)
def test_batch_normalization_trains_on_a_sample_that_is_left_over(
    tmp_path: Path, options: Sequence[str]
) -> None:
    """It would fail on a batch of one sample."""
    (tmp_path / "normalized.py").write_text(NORMALIZED)
    run = tmp_path / "run"
    command = [*LEASH, "launch", "--model=normalized:build", "--dataset=normalized:data",
               *options, "--workers=2", "--epochs=2", f"--run-dir={run}"]  # fmt: skip
    with Child(command, cwd=tmp_path) as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    summary = summary_of(run)
    assert (summary["samples"], summary["samples_twice"]) == (2 * 67, 0)
    assert (summary["epochs"], summary["evictions"], summary["ended"]) == (2, 0, "done")


def test_under_asp_the_fast_do_more(tmp_path: Path) -> None:
    write_source(tmp_path)
    command = [
        *LEASH, "launch", *TASK, "--policy=asp", "--workers=2", "--epochs=4", "--slow=0.01,0.1",
        f"--run-dir={tmp_path / 'run'}",
    ]  # fmt: skip
    with ExitStack() as stack:
        with gate(tmp_path, 2):
            child = stack.enter_context(Child(command, cwd=tmp_path))
        assert child.wait(100) == 0, "\n".join(child.lines)
    steps = summary_of(tmp_path / "run")["steps_by_worker"]
    assert steps["1"] > 2 * steps["2"] > 0


def until(address: str, is_reached: Callable[[dict[str, Any]], bool], wait_s: float = 60) -> None:
    """Asks how the run stands until it is as it should be."""
    deadline_s = time.monotonic() + wait_s
    with ControlChannel(address) as channel:
        while not is_reached(state := request_state(channel)):
            assert time.monotonic() < deadline_s, state


def are_resting(state: dict[str, Any]) -> bool:
    return [row["state"] for row in state["table"]] == ["resting", "resting", "live"]


def wait_after(steps: int) -> Callable[[dict[str, Any]], bool]:
    """All that the two fast ones may do without the third."""
    return lambda state: bool(state["steps"] == steps)


@pytest.mark.parametrize(
    ("policy", "when"),
    [("asp", are_resting), ("ssp", wait_after(4)), ("bsp", wait_after(2))],
    ids=["asp", "ssp", "bsp"],
)
def test_the_lease_of_a_killed_worker_is_handed_out_again(
    tmp_path: Path, policy: str, when: Callable[[dict[str, Any]], bool]
) -> None:
    """The victim sleeps in its first step. The others rest already, or wait for it."""
    write_source(tmp_path)
    run = tmp_path / "run"
    options = ["--workers=3", f"--policy={policy}", "--data-plan=lease"]
    if policy == "ssp":
        options.append("--bound=1")
    with ExitStack() as stack:
        server, address = stack.enter_context(server_process(run, *options))
        with gate(tmp_path, 3):
            workers = [
                stack.enter_context(
                    Child([*LEASH, "worker", f"--server={address}", f"--rank={rank}", *TASK,
                           f"--slow={60 if rank == 3 else 0}"], cwd=tmp_path)
                )
                for rank in (1, 2, 3)
            ]  # fmt: skip
        until(address, when)
        workers[2].kill()
        for child in (*workers[:2], server):
            assert child.wait(60) == 0, "\n".join(child.lines)
    counts, summary = seen(tmp_path), summary_of(run)
    assert sorted(counts) == list(range(SAMPLES))
    assert SAMPLES < counts.total() <= SAMPLES + 10  # the victim had begun to read its first batch
    assert (summary["epochs"], summary["evictions"]) == (1, 1)
    assert summary["samples"] == SAMPLES  # of that batch nothing was pushed
    assert summary["samples_twice"] == 0
    assert audit_run(run) == []


def test_what_was_applied_and_not_answered_is_counted_as_used_twice() -> None:
    """ssp(1): the first worker's second step waits for the second worker when the first goes."""
    settings: dict[str, Any] = {"workers": 2, "policy": "ssp", "bound": 1, "chunk_kib": 64}
    with (
        serving(**settings, lr=0.5) as running,
        peers(*[running.address, running.data_address] * 2) as (c1, d1, c2, d2),
    ):
        first, second = joined(running, 1, c1, d1), joined(running, 2, c2, d2)
        first.init()
        lease = {"samples": 100, "epochs": 1, "batch_size": 2, "samples_per_s": 1.0}
        asked = first.header("lease", number=1, **lease)
        leased, _ = c1.ask(asked)
        assert c1.ask(asked)[0] == leased  # as if the answer had been lost
        assert (leased["order"], leased["first"], leased["count"]) == ("train", 0, 2)
        assert c2.error(second.header("lease", number=2, **lease)) == "bad_header"
        assert c2.error(second.header("lease", number=1, **{**lease, "samples": 9})) == (
            "plan_mismatch"
        )
        push_two_steps(first)
        assert running.server.coordinator.state()["samples_twice"] == 0
        c1.ask(first.header("bye", reason="failed"))
        state = running.server.coordinator.state()
        assert state["samples_twice"] == 1
        again, _ = c2.ask(second.header("lease", number=1, **lease))
        assert (again["order"], again["first"]) == ("train", 1)


def push_two_steps(worker: Worker) -> None:
    """The first step is answered; of the second one chunk 0 waits."""
    for step in (1, 2):
        for chunk in (1, 0):
            worker.data.send(worker.push(chunk, step), packed(chunk, 0.25))
    for _ in range(2):
        assert worker.data.receive()[0]["step"] == 1
    # Its answer comes after the server has handled all that was sent before it.
    assert worker.data.ask({"t": "echo"}, b"")[0]["t"] == "echoed"


def test_a_run_with_fixed_shares_has_no_leases() -> None:
    with (
        serving(workers=1, policy="bsp") as running,
        peers(running.address, running.data_address) as (control, data),
    ):
        worker = joined(running, 1, control, data)
        lease = {"number": 1, "samples": 9, "epochs": 1, "batch_size": 1, "samples_per_s": 0.0}
        assert control.error(worker.header("lease", **lease)) == "plan_mismatch"


def test_one_that_rests_takes_no_part_until_it_says_hello_again() -> None:
    with (
        serving(workers=2, policy="asp", chunk_kib=64) as running,
        peers(*[running.address, running.data_address] * 2) as (c1, d1, c2, d2),
    ):
        first, second = joined(running, 1, c1, d1), joined(running, 2, c2, d2)
        first.init()
        lease = {"samples": 1, "epochs": 1, "batch_size": 1, "samples_per_s": 0.0}
        assert c1.ask(first.header("lease", number=1, **lease))[0]["order"] == "train"
        assert c2.ask(second.header("lease", number=1, **lease))[0]["order"] == "rest"
        assert d2.error(second.push(1, 1), packed(1, 1.0)) == "evicted"
        assert c2.ask(second.header("beat"))[0]["t"] == "beaten"
        c1.ask(first.header("bye", reason="failed"))
        assert c2.ask(second.header("lease", number=2, **lease))[0]["order"] == "return"
        second.hello()
        assert c2.ask(second.header("lease", number=1, **lease))[0]["order"] == "train"
        assert c2.ask(second.header("lease", number=2, **lease))[0]["order"] == "over"
