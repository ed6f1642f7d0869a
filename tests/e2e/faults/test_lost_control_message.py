"""A control connection is reset with a message in flight: nobody is lost, nothing counts twice."""

import itertools
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import OVER, TRAIN, Leased, Report
from leash.ps.wire.requester import Requester
from leash.worker.client import Client
from leash.worker.client.control.session import Session
from support.relays import Relay
from support.servers import serving

LAYOUT = Layout([Slot("w", "f32", (4,))])
SIZE, EPOCHS, BATCH = 60, 40, 10
RESETS = 30
SOON_S = 30.0
LATE_S = 0.3  # a server that hung up would do so much sooner
REQUESTS = ["beat", "report", "lease"]
ANSWERS = ["beaten", "ok", "leased"]


class LeasingWorker:
    """A worker that trains on what it is leased, and reports after each lease."""

    def __init__(self, address: str, rank: int) -> None:
        self.client = Client(address, LAYOUT, rank=rank, transport="tcp")
        self.slab = np.zeros(LAYOUT.nbytes, np.uint8)
        self.seen: Counter[tuple[int, int]] = Counter()  # (epoch, position)
        self.reports = 0

    def work(self) -> Leased:
        """Takes a lease to its end; returns it."""
        leased = self.client.lease(SIZE, EPOCHS, BATCH, 100.0)
        if leased.order == TRAIN:
            positions = range(leased.first, leased.first + leased.count)
            self.seen.update((leased.epoch, position) for position in positions)
            self.slab[:] = 0
            self.client.push_pull(self.slab, self.slab, samples=leased.count)
        return leased

    def report(self) -> None:
        """Reports; a beat follows at once."""
        self.reports += 1
        step, samples = self.client.steps, sum(self.seen.values())
        self.client.report(
            Report(self.client.rank, self.client.incarnation, "epoch", self.reports, step, samples,
                   0.5, 0.0, 1.0, 1.0)
        )  # fmt: skip


@pytest.mark.parametrize("lost", [REQUESTS, ANSWERS], ids=["requests", "answers"])
def test_no_worker_is_lost_with_a_message_and_nothing_counts_twice(
    lost: list[str], tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    with (
        serving(workers=2, policy="asp", lr=0.5, epochs=EPOCHS, run_dir=run_dir) as running,
        ExitStack() as stack,
    ):
        relay = Relay(int(running.address.rpartition(":")[2]))
        stack.callback(relay.close)
        greeting = "hello" if lost is REQUESTS else "welcome"
        relay.reset_with(greeting)
        first = LeasingWorker(f"tcp://127.0.0.1:{relay.port}", 1)
        stack.callback(first.client.close)
        assert relay.met.get(timeout=SOON_S) == greeting
        second = LeasingWorker(running.address, 2)
        stack.callback(second.client.close)
        for worker in (first, second):
            worker.client.begin(worker.slab)
        for verb in itertools.islice(itertools.cycle(lost), RESETS):
            relay.reset_with(verb)
            first.work()
            first.report()
            second.work()
            assert relay.met.get(timeout=SOON_S) == verb
        while {first.work().order, second.work().order} != {OVER}:
            pass
        if lost is REQUESTS:
            relay.reset_with("bye")
        stack.close()
        assert running.join() == 0
    assert set((first.seen + second.seen).values()) == {1}
    assert sum((first.seen + second.seen).values()) == SIZE * EPOCHS
    summary = json.loads(run_dir.summary.read_text())
    told = ("evictions", "samples_twice", "refused_messages", "duplicate_pushes", "samples")
    assert [summary[name] for name in told] == [0, 0, 0, 0, SIZE * EPOCHS]
    events = [json.loads(line) for line in run_dir.events.read_text().splitlines()]
    assert sorted(e["worker"] for e in events if e["event"] == "joined") == [1, 2]
    epochs = [e["epoch"] for e in events if e["event"] == "epoch" and e["worker"] == 1]
    assert epochs == list(range(1, RESETS + 1))


def test_the_last_worker_is_told_that_its_bye_is_taken_however_late_it_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ZeroMQ drops an answer that nobody has taken when the server closes the connection."""
    said: list[str] = []
    with serving(policy="asp") as running:
        client = Client(running.address, LAYOUT, rank=1, say=said.append)
        slab = np.zeros(LAYOUT.nbytes, np.uint8)
        client.begin(slab)
        client.push_pull(np.zeros(LAYOUT.nbytes, np.uint8), slab, samples=1)
        looks, at_once = [0], ControlChannel._await

        def late(channel: ControlChannel, requester: Requester) -> None:
            if isinstance(requester, Session) and requester.stands:
                looks[0] += 1
                running.thread.join(LATE_S)
            at_once(channel, requester)

        monkeypatch.setattr(ControlChannel, "_await", late)
        client.close()
        assert looks == [1]  # it was answered
        assert said == []
        assert running.join() == 0
